"""What makes a configuration that of a supervised run."""

from visual_r1.config import RunConfig, listed
from visual_r1.config.run_config import contradictions
from visual_r1.errors import ConfigError

DEFAULT_COLUMN = "response"
_META = "meta."


def supervised(config: RunConfig) -> RunConfig:
    """`config` of a run that learns from a column of responses, which the dataset then keeps.

    Raises `ConfigError` for a column of generated problems, which have none, and for settings that
    make no sense in such a run, where nothing had said yet that it is one.
    """
    named = config.sft.responses is not None
    column = config.sft.responses or DEFAULT_COLUMN
    if config.data.source == "procedural" and not column.startswith(_META):
        raise ConfigError(
            f"generated problems have no column {column!r} of responses: their worked solutions "
            "are --sft.responses meta.solution."
        )
    kept = listed(config.data.columns.keep)
    if not column.startswith(_META) and column not in kept:
        columns = config.data.columns.model_copy(update={"keep": ",".join([*kept, column])})
        data = config.data.model_copy(update={"columns": columns})
        config = config.model_copy(update={"data": data})
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"responses": column})})
    # Where a column was named this has been asked, unless the run was stored before it was.
    if not named:
        for sentence in contradictions(config):
            raise ConfigError(f"{sentence}.")
    return config


def require_reinforcement(config: RunConfig) -> RunConfig:
    """`config`, where it is no supervised run; raises `ConfigError` where it is."""
    if config.sft.responses is not None:
        raise ConfigError(
            f"sft.responses is {config.sft.responses!r}, which makes this a supervised run: start "
            "it with `python flows/sft_flow.py`, or leave it out and let model.start_from name "
            "that run."
        )
    return config


def name_in_meta(column: str) -> str:
    """Where a problem keeps its response: `meta.NAME` and a kept column NAME are both NAME."""
    return column.removeprefix(_META)
