"""What can be found wrong with a run before anything of it is started or written."""

from visual_r1.config import RunConfig
from visual_r1.data.sources import open_source
from visual_r1.prompts.templates import load_template
from visual_r1.rewards import load_custom
from visual_r1.rl.losses import loss_of
from visual_r1.rl.second_pass import require_scan


def require_sound(config: RunConfig) -> None:
    """Raise `ConfigError` or `DataError` for what the configuration names and is not there.

    That is a loss, a template, a source, or the user's own reward function. All of this would be
    found later too, but only after a server's start, or a whole baseline evaluation.
    """
    loss_of(config.train)
    load_template(config.prompt.template)
    require_scan(config)
    if config.reward.custom is not None:
        load_custom(config.reward.custom)
    open_source(config.data)
