"""`visual-r1 doctor`, with what it says of Prefect's settings: the package itself knows none."""

from collections.abc import Sequence

from tasks.environment import source_of, users_settings
from tasks.keys import borrow_keys, keys_wanted, source_of_key
from visual_r1.backend.endpoint import without_secrets
from visual_r1.config import RunConfig
from visual_r1.doctor import command
from visual_r1.doctor.checks import Diagnosis
from visual_r1.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the run that `arguments` describe, and say what was found; the exit status."""
    return command.main(arguments, before=borrow_keys, more=prefect_settings)


def prefect_settings(config: RunConfig) -> list[Diagnosis]:
    """Which server a run would use, and what says so."""
    own_home = config.state_dir.absolute() / "prefect"
    try:
        settings = users_settings(own_home)
    except ConfigError as error:
        return [Diagnosis("error", "Prefect's settings", str(error))]
    if settings.api.url is None:
        named = "PREFECT_HOME" in settings.to_environment_variables(exclude_unset=True)
        home = f"{settings.home} ({source_of('PREFECT_HOME')})" if named else f"{own_home}"
        says = f"a temporary server, since PREFECT_API_URL is set nowhere; its records in {home}"
    else:
        says = f"{without_secrets(settings.api.url)} ({source_of('PREFECT_API_URL')})"
    sources = {key.variable: source_of_key(key) for key in keys_wanted(config)}
    keys = ", ".join(f"{name} from {source}" for name, source in sources.items() if source)
    return [
        Diagnosis("ok", "Prefect's settings", says),
        Diagnosis("ok", "keys", keys or "none is set that this run uses"),
    ]
