"""A run's own copy of the user's reward function: a changed reward would be another run.

The import path is part of the configuration; what the file holds is not, so the run keeps the file
it began with, and a start with another one is refused. Modules that the file imports are not
compared.
"""

from pathlib import Path

from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.rewards import load_custom
from visual_r1.storage import replaced_whole

COPY = "custom_reward.py"


def require_same_reward(config: RunConfig) -> None:
    """Raise `RunError` where the file of `reward.custom` is another than the run's copy of it.

    Where there is no copy there is nothing to compare: removing it is how to go on all the same.
    """
    source, copy = _source(config), config.run_dir / COPY
    if source is None or not copy.exists() or copy.read_bytes() == source.read_bytes():
        return
    raise RunError(
        f"{source} has changed since {config.run_dir} began with it, and a changed reward is "
        f"another run: put back what {copy} holds, choose another --run.name, or remove {copy} "
        "to go on with the new one."
    )


def keep_reward_source(config: RunConfig, run_dir: Path, *, anew: bool) -> None:
    """Copy the file of `reward.custom` into the run's folder, where there is no copy yet.

    `anew` says that the run begins here, so that an older copy no longer counts.
    """
    source, copy = _source(config), run_dir / COPY
    if source is None or (copy.exists() and not anew):
        return
    with replaced_whole(copy) as temporary:
        temporary.write_bytes(source.read_bytes())


def _source(config: RunConfig) -> Path | None:
    return None if config.reward.custom is None else load_custom(config.reward.custom).file
