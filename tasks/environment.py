"""How Prefect behaves here; must be called before a flow's module imports Prefect.

Prefect reads its settings from the environment, `.env`, `prefect.toml`, `pyproject.toml` and the
active profile, in this order. All of them are read as Prefect reads them, and what any of them sets
stays: what is set here is for what is left, and what a temporary server needs.
"""

import argparse
import io
import os
import secrets
import sys
import tomllib
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import ValidationError

from tasks.own_server import forget_lost_server
from visual_r1.errors import ConfigError
from visual_r1.printing import CommandParser
from visual_r1.streams import open_streams

if TYPE_CHECKING:
    from prefect.settings import Settings

_BOOTSTRAP = "_workspace_runtime_bootstrap.py"
PROBE_SECONDS = 2.5  # for connecting and for reading, one after the other

_settled: set[str] = set()
"""The variables that were set here."""


def settle_prefect(output_dir: Path | None = None) -> None:
    """Give Prefect a home of its own under `.visual-r1/`, and keep it quiet and private.

    That folder is in `output_dir`, by default in the one that the command line names.
    The home matters: an older Prefect fails on the database of a newer one. Where the user's
    settings name a server, it is somebody else's, and its home and settings are left alone.
    The first call of a process counts.
    """
    if _settled:
        return
    if Path(sys.argv[0]).name == _BOOTSTRAP and sys.argv[1:2] == ["hook"]:
        # Prefect's worker loads a flow's module anew when a run was cancelled or has crashed, to
        # look for hooks, and tells the server what it saw when that is done. There are none here:
        # `tasks.watch` does what they would, also where the worker has died. It is spared seconds.
        os._exit(0)
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        # A worker's process: the worker may die, and with it who reads what is printed.
        open_streams()
    state_dir = (output_dir or _output_dir()).absolute() / ".visual-r1"
    own_home = state_dir / "prefect"
    settings = users_settings(own_home)
    wanted = {
        "DO_NOT_TRACK": "1",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(state_dir / "results"),
        # One sentence tells the user what went wrong; tracebacks go to the run's log.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    }
    needed: dict[str, str] = {}
    if settings.api.url is None:
        wanted |= {
            "PREFECT_HOME": str(own_home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        }
        # Of a profile in the user's home, which is not read there any more, the rest stays.
        if settings.profiles_path.exists():
            wanted["PREFECT_PROFILES_PATH"] = str(settings.profiles_path)
        # What the temporary server needs, whatever a profile says of another one. Its token goes by
        # the environment, where other users do not see it, and nobody else learns it.
        token = f"visual-r1:{secrets.token_urlsafe(24)}"
        needed = {
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
            "PREFECT_API_AUTH_STRING": token,
            "PREFECT_SERVER_API_AUTH_STRING": token,
        }
        for name in ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
            os.environ.pop(name, None)
    users = settings.to_environment_variables(exclude_unset=True)
    left = {name: value for name, value in wanted.items() if name not in users}
    for name, value in (left | needed).items():
        if name not in os.environ:
            os.environ[name] = value
            _settled.add(name)
    if "PREFECT_HOME" in _settled:
        # Prefect warns about each folder above its home that is missing.
        try:
            own_home.mkdir(parents=True, exist_ok=True)
        except OSError:
            # The command itself says so a moment later, in a sentence.
            warnings.filterwarnings("ignore", message="Failed to create the Prefect home")
    from prefect.context import refresh_global_settings_context

    with redirect_stderr(io.StringIO()):  # a profile that is missing was said when it was imported
        refresh_global_settings_context()
    if settings.api.url is None:
        # From here on it is the one that Prefect finds, also where a flow is called as a function.
        from tasks.default_server import temporary_server

        temporary_server()


def users_settings(own_home: Path) -> "Settings":
    """Prefect's settings as it sees them without us.

    No folder is made in the user's home for the look; `own_home` is where Prefect may make one.

    Raises:
        ConfigError: a setting has no such value, or a file of settings cannot be read.
    """
    if "PREFECT_API_URL" not in os.environ:
        forget_lost_server(Path.cwd())
    looks_first = "PREFECT_HOME" not in os.environ and not (Path.home() / ".prefect").exists()
    if looks_first:
        # Importing it makes its home. With a missing parent it cannot, and warns.
        os.environ["PREFECT_HOME"] = str(own_home)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", message="Failed to (create the Prefect home|load)")
            from prefect.settings import Settings

            if looks_first:
                del os.environ["PREFECT_HOME"]
            settings = Settings()
        if settings.profiles_path.exists():
            tomllib.loads(settings.profiles_path.read_text())
    # pydantic's and TOML's are ValueErrors too.
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"Prefect's settings cannot be read: {_in_words(error)}. They come from variables "
            "PREFECT_... of the environment, .env, prefect.toml, pyproject.toml and the profile; "
            "mend or remove that one."
        ) from error
    return settings


def _in_words(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error).rstrip(".")
    first = error.errors(include_url=False)[0]
    where = " ".join(str(part) for part in (error.title, *first["loc"]))
    return f"{where} is {first['input']!r} ({first['msg']})"


def prefect_server() -> str | None:
    """The address of the Prefect server that the user's settings name; None: a temporary one."""
    from prefect.settings import Settings

    return Settings().api.url


def require_answer(server: str, within_s: float = PROBE_SECONDS) -> None:
    """Raise `httpx.HTTPError` where Prefect's server is away, or answers with an error of its own;
    `httpx.TimeoutException` where it does not answer within so long.

    Prefect's own client would ask for a minute. Any other answer will do: Prefect Cloud asks for a
    key here, which that client has.
    """
    answer = httpx.get(f"{server.rstrip('/')}/health", timeout=within_s)
    if answer.is_server_error:
        answer.raise_for_status()


def require_prefect_server() -> None:
    """Raise `ConfigError` where Prefect's settings name a server that nobody answers for.

    Prefect itself would end in a traceback. Any other answer will do than that of the server's
    pages: what it says is for Prefect.
    """
    url = prefect_server()
    if url is None:
        return
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS)
        _require_api(url, answer)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Its module imports the SDK, which a mistyped flag should not wait for.
        from visual_r1.backend.endpoint import without_secrets

        raise ConfigError(
            f"No Prefect server answers at PREFECT_API_URL {without_secrets(url)!r} "
            f"({error}), which is set in {source_of('PREFECT_API_URL')}: start it, or unset "
            "PREFECT_API_URL there for a temporary one."
        ) from error


def _require_api(url: str, answer: httpx.Response) -> None:
    """Raise `ConfigError` where the address is that of the server's pages, and the API is beneath.

    The server shows its pages at every address but the API's; Prefect then ends in a traceback.
    """
    from prefect.settings import Settings

    if answer.text.strip() == "true" or answer.status_code in (401, 403):
        return
    if url.startswith(Settings().cloud.api_url):
        return  # a workspace of Prefect Cloud, which has its API beneath that address
    api = urlunsplit((*urlsplit(url)[:2], "/api", "", ""))
    if api == url.rstrip("/") or httpx.get(f"{api}/health", timeout=PROBE_SECONDS).text != "true":
        return
    from visual_r1.backend.endpoint import without_secrets

    raise ConfigError(
        f"PREFECT_API_URL {without_secrets(url)!r}, which is set in "
        f"{source_of('PREFECT_API_URL')}, is where the server has its pages; its API is at "
        f"{without_secrets(api)}: set PREFECT_API_URL to that."
    )


def source_of(name: str) -> str:
    """Where Prefect has the setting with this name of a variable from, as a user would say it."""
    from dotenv import dotenv_values
    from prefect.context import get_settings_context
    from prefect.settings import Settings

    if name in _settled:
        return "this program's own settings"
    if name in {given.upper() for given in os.environ}:  # as Prefect reads them
        return "the environment"
    if name in dotenv_values(".env"):
        return f"{Path('.env').absolute()}"
    profile = get_settings_context().profile
    if name in profile.to_environment_variables():
        return f"profile {profile.name!r} of {Settings().profiles_path}"
    if name in Settings().to_environment_variables(exclude_unset=True):
        return "prefect.toml or pyproject.toml"
    return "Prefect's default"


def _output_dir() -> Path:
    parser = CommandParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--output-dir", "--output_dir", type=Path, default=Path())
    try:
        return parser.parse_known_args(sys.argv[1:])[0].output_dir.absolute()
    except argparse.ArgumentError:
        return Path().absolute()  # the command itself says what is missing
