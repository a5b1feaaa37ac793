"""What can be found wrong with a run before anything of it is started or written."""

import os

from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import ModelSection, RunConfig
from visual_r1.data.sources import require_readable
from visual_r1.engine.types import InvalidRequest, LoraSpec, check_spec
from visual_r1.errors import ConfigError
from visual_r1.policy.second_pass import require_scan
from visual_r1.prompts.templates import load_template
from visual_r1.report.tracking import require_tracker
from visual_r1.rewards import load_custom
from visual_r1.rl.losses import UNPUBLISHED, loss_of, names_of_losses


def require_sound(config: RunConfig) -> None:
    """Raise `ConfigError` or `DataError` for what the configuration names and is not there.

    That is a loss, a LoRA that the engine does not train, a tracker that is not installed, a
    template, a source or one of its columns, or the user's own reward function or loss. All of this
    would be found later too, but only after a server's start, or a whole baseline evaluation.
    """
    loss = loss_of(config.train, config.algorithm)
    if loss.name == UNPUBLISHED and choose_kind(config, os.environ) == "embedded":
        raise ConfigError(
            f"The loss {loss.name} exists on the hosted service alone, which has not published its "
            f"formula; the embedded engine has {names_of_losses(embedded=True)}."
        )
    if choose_kind(config, os.environ) == "embedded":
        _require_lora(config.model)
    require_tracker(config)
    load_template(config.prompt.template)
    require_scan(config)
    if config.reward.custom is not None:
        load_custom(config.reward.custom)
    require_readable(config.data)


def _require_lora(model: ModelSection) -> None:
    spec = LoraSpec(
        model.lora_rank,
        train_mlp=model.train_mlp,
        train_attn=model.train_attn,
        train_unembed=model.train_unembed,
    )
    try:
        check_spec(spec)
    except InvalidRequest as error:
        raise ConfigError(
            f"The embedded engine cannot train this LoRA (section model): {error}"
        ) from error
