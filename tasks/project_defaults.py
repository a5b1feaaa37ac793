"""The project's own defaults: the Prefect variable `visual_r1_defaults`, dotted names to values.

They lie beneath what a deployment or a schedule gives, above the preset, and count in deployments
alone: a command on a terminal is what it says. Which server a run uses is never among them: where
money is spent is said by the deployment itself.
"""

from collections.abc import Mapping
from typing import Any

from prefect.variables import Variable

from tasks.outcome import SERVER_FAILURES
from visual_r1.errors import ConfigError
from visual_r1.printing import open_logger

logger = open_logger("visual_r1.tasks")

VARIABLE = "visual_r1_defaults"

REFUSED = ("preset", "backend.server", "backend.base_url")


def with_project_defaults(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` over the project's defaults; for a flow that a deployment runs.

    Raises:
        ConfigError: the variable is no object of dotted names, names a server, or cannot be read.
            Without it another run would begin than the one that is meant.
    """
    try:
        defaults: Any = Variable.get(VARIABLE, _sync=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except SERVER_FAILURES as error:
        raise ConfigError(
            f"The Prefect server cannot be asked for the variable {VARIABLE} "
            f"({type(error).__name__}), so this run's settings are not known: retry it."
        ) from error
    if defaults is None:
        return dict(overrides)
    if not isinstance(defaults, dict) or any(isinstance(one, dict) for one in defaults.values()):
        raise ConfigError(
            f"The variable {VARIABLE} must be an object of dotted names and values, such as "
            '{"logging.wandb": false}: mend it on the page Variables, or remove it.'
        )
    for name in REFUSED:
        if name in defaults or name.partition(".")[0] in defaults:
            raise ConfigError(
                f"The variable {VARIABLE} must not set {name}, since all deployments would follow "
                "it: give it in the deployment's own parameters."
            )
    beneath = {name: value for name, value in defaults.items() if name not in overrides}
    if beneath:
        told = ", ".join(f"{name} = {value!r}" for name, value in beneath.items())
        logger.warning("The project's defaults (variable %s) set %s.", VARIABLE, told)
    return beneath | dict(overrides)
