"""Which Tinker server a run talks to: what is set, whether its key can be one, whether it answers.

A base URL beats a key, and a key beats the embedded engine; `backend.server = "embedded"` (preset
quickstart) beats what the environment has. `backend.base_url` beats a preset's server, and beside
an "embedded" that somebody gave it is a contradiction, see `config`. An address is shown and stored
without what may be a secret in it.
"""

import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit, urlunsplit

from visual_r1.config import RunConfig
from visual_r1.errors import BackendError, ConfigError, CredentialError, ServerBusy
from visual_r1.printing import open_logger
from visual_r1.secrecy import keep_secret, keep_secrets_of
from visual_r1.wording import duration

if TYPE_CHECKING:
    import httpx

    from visual_r1.backend.recovery import Recoveries

logger = open_logger(__name__)

Kind = Literal["embedded", "hosted", "self-hosted"]

# The SDK itself keeps trying a dead port for minutes, so the address is probed before it is used.
PROBE_SECONDS = 5.0
PROBE_PAUSE_S = 0.3
_LONGEST_DETAIL = 300

BUSY = (429, 502, 503, 504, 529)
"""Statuses of a server, or of a gateway in front of it, that will take calls later."""

IN_TURNS = "samples_and_trains_in_turns"
"""What our engine adds to its answer to the SDK's first call: one thread of it computes."""

REMOTE_LIFETIME_S = 7 * 86400


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens; `base_url` is None for the hosted service's own address."""

    kind: Kind
    base_url: str | None = field(default=None, repr=False)  # it may hold a password
    api_key: str = field(default="", repr=False)


def choose_kind(config: RunConfig, environ: Mapping[str, str]) -> Kind:
    """The server that `config` and the environment ask for."""
    if config.backend.server == "embedded":
        return "embedded"
    if config.backend.base_url or environ.get("TINKER_BASE_URL"):
        return "self-hosted"
    if config.backend.server == "remote" or environ.get("TINKER_API_KEY"):
        return "hosted"
    return "embedded"


def console_page(path: str) -> str | None:
    """The page of Tinker's console about the training run of a `tinker://` path; None of another.

    For paths of the hosted service: nobody else has a console.
    """
    # Here and not above, as below: the SDK imports torch, and who only reads a run does without.
    from tinker.lib.console_urls import (  # pyright: ignore[reportMissingTypeStubs]
        training_run_console_url,
    )

    parts = urlsplit(path)
    return training_run_console_url(parts.netloc) if parts.scheme == "tinker" else None


def checkpoint_lifetime(config: RunConfig, kind: Kind) -> int | None:
    """Seconds that a checkpoint lives on such a server; None is for ever.

    On the user's own disk nothing ends that nobody asked to end.
    """
    chosen = config.backend.checkpoint_ttl_seconds
    return chosen if chosen is not None or kind == "embedded" else REMOTE_LIFETIME_S


def unused_key_note(config: RunConfig, environ: Mapping[str, str]) -> str | None:
    """One sentence where a key or URL is set and this configuration does not use it."""
    names = [name for name in ("TINKER_API_KEY", "TINKER_BASE_URL") if environ.get(name)]
    if choose_kind(config, environ) != "embedded" or not names:
        return None
    return (
        f"{' and '.join(names)} set and not used: preset {config.preset} runs on the embedded "
        "engine. --backend.server auto uses it, with a --model.name that the server offers."
    )


def remote_endpoint(config: RunConfig, environ: Mapping[str, str]) -> Endpoint:
    """The remote server with its key; raises `CredentialError` or `BackendError` in a sentence."""
    kind = choose_kind(config, environ)
    base_url = config.backend.base_url or environ.get("TINKER_BASE_URL") or None
    if base_url is not None:
        base_url = base_url.strip()
        keep_secrets_of(base_url)
        if not _is_address(base_url):
            raise BackendError(
                f"{without_secrets(base_url)!r} is not a server's address: it should look like "
                "http://host:port."
            )
    if config.backend.base_url and may_hold_secrets(config.backend.base_url):
        raise ConfigError(
            "backend.base_url holds a user, a password or a query, and a configuration is stored "
            "and shown: set TINKER_BASE_URL to that address instead."
        )
    return Endpoint(kind, base_url, checked_key(environ.get("TINKER_API_KEY")))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed only now
    except ValueError:
        return False
    is_whole = url.isprintable() and " " not in url  # urlsplit drops line breaks
    return is_whole and parts.scheme in ("http", "https") and bool(parts.hostname)


def checked_key(key: str | None) -> str:
    """The key as it is sent, of a form that the SDK accepts: `tml-…`, or a JWT that still holds.

    White space around it is left out, and that is said once. Raises `CredentialError`, whose text
    never shows the key.
    """
    sent = (key or "").strip()
    if not sent:
        raise CredentialError(
            "A Tinker server needs a key and TINKER_API_KEY is not set: "
            "export TINKER_API_KEY=tml-…, or use --preset quickstart, which needs none."
        )
    if sent != key:
        _say_of_white_space()
    keep_secret(sent)
    again = "copy it again from the Tinker console."
    wrong = next((place for place, one in enumerate(sent, 1) if not "!" <= one <= "~"), None)
    if wrong is not None:
        what = "white space" if sent[wrong - 1].isspace() else "no printable ASCII"
        raise CredentialError(
            f"TINKER_API_KEY cannot be a key: character {wrong} of its {len(sent)} is {what}; "
            f"{again}"
        )
    if sent.startswith("eyJ"):
        _require_valid_token(sent)
    elif not sent.startswith("tml-") or sent == "tml-":
        raise CredentialError(
            f"TINKER_API_KEY does not have the form of a Tinker key ({len(sent)} characters, and "
            f"not tml- with more behind it, nor a JWT, which starts with eyJ): {again}"
        )
    return sent


@cache
def _say_of_white_space() -> None:
    logger.warning("TINKER_API_KEY has white space around it, which is left out.")


def _require_valid_token(token: str) -> None:
    """Raise `CredentialError` for what the SDK would refuse later, in a request's own thread."""
    try:
        claims = token.split(".")[1]
        expires = float(json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        # Without the cause: it may quote the token.
        raise CredentialError(
            "TINKER_API_KEY starts like a JWT (eyJ) and is none that says when it expires: ask for "
            "another one, or use a key from the Tinker console, which starts with tml-."
        ) from None
    if time.time() >= expires:
        raise CredentialError(
            "The JWT in TINKER_API_KEY has expired: ask for another one, or use a key from the "
            "Tinker console, which starts with tml-."
        )


def probe(endpoint: Endpoint, recoveries: "Recoveries | None" = None) -> bool:
    """Make the SDK's first call, within five seconds; whether the server says that it samples and
    trains in turns, as our engine does.

    The SDK itself tries for minutes. Where `recoveries` are given, a server that is busy is waited
    for as they wait after a failure, and as long as it asks for. Raises `ServerBusy` where it
    stays so, `BackendError` where nothing answers or what answers is not a Tinker server,
    `CredentialError` where it refuses the key.
    """
    if recoveries is None:
        return _probe(endpoint)
    return recoveries.run(
        lambda: _probe(endpoint),
        "the first call",
        "is made again",
        passes=lambda error: isinstance(error, ServerBusy),
    )


def _probe(endpoint: Endpoint) -> bool:
    # With its command line: a tenth of a second, which what shows runs on disk does without.
    import httpx
    from tinker.lib.base_url import resolve_base_url  # pyright: ignore[reportMissingTypeStubs]

    base_url = resolve_base_url(endpoint.base_url)
    shown = without_secrets(base_url)
    try:
        answer = _first_call(f"{base_url}/api/v1/client/config", endpoint.api_key)
    except httpx.TimeoutException as error:
        raise BackendError(
            f"{shown} did not answer within {PROBE_SECONDS:.0f} s: check TINKER_BASE_URL and "
            "that the server runs."
        ) from error
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise BackendError(
            f"Nothing answers at {shown} ({error}): check TINKER_BASE_URL and that the server runs."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # What was to be sent is at fault, and the error quotes it: the address or a header.
        raise BackendError(
            f"The first call cannot be sent to {shown} ({type(error).__name__}): check "
            "TINKER_BASE_URL and TINKER_API_KEY."
        ) from None
    if answer.status_code in (401, 403):
        raise CredentialError(
            f"{shown} does not accept the key in TINKER_API_KEY: check that it is valid there."
        )
    if answer.status_code in BUSY:
        raise _busy(shown, answer)
    if not answer.is_success or not _is_json_object(answer.content):
        raise BackendError(
            f"What answers at {shown} is not a Tinker server in working order (status "
            f"{answer.status_code}{_said(answer.content)}): check TINKER_BASE_URL."
        )
    return json.loads(answer.content).get(IN_TURNS) is True


def _first_call(url: str, api_key: str) -> "httpx.Response":
    """The answer; a server that fails or drops the connection is asked again, twice, unless it
    says when."""
    import httpx
    import tinker

    left = 2
    while True:
        try:
            answer = httpx.post(
                url,
                json={"sdk_version": tinker.__version__},
                headers={"X-API-Key": api_key},
                timeout=PROBE_SECONDS / 2,  # for connecting and for reading, one after the other
            )
            fails = answer.status_code in (408, 429) or answer.is_server_error
            if left == 0 or not fails or "Retry-After" in answer.headers:
                return answer
        except (httpx.RemoteProtocolError, httpx.ReadError):
            if left == 0:
                raise
        left -= 1
        time.sleep(PROBE_PAUSE_S)


def _busy(shown: str, answer: "httpx.Response") -> ServerBusy:
    asked_s = retry_after_s(answer.headers)
    asks = "" if asked_s is None else f" and asks to be asked again in {duration(ceil(asked_s))}"
    return ServerBusy(
        f"{shown} is busy (status {answer.status_code}{_said(answer.content)}){asks}; nothing is "
        "wrong with its address. Start the same command again later.",
        asked_s,
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, by number or by date; None where it says neither.

    A date counts from the server's own `Date`, where that is there: the two clocks may differ.
    """
    said = headers.get("Retry-After", "").strip()
    try:
        seconds = float(said)
    except ValueError:
        then, now = _date(said), _date(headers.get("Date", ""))
        if then is None:
            return None
        return max(0.0, then - (time.time() if now is None else now))
    return seconds if isfinite(seconds) and seconds >= 0 else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _said(content: bytes) -> str:
    """The server's own words (that it wants another version of the SDK, say), where it has any."""
    try:
        body: Any = json.loads(content)
    except ValueError:
        return ""
    detail: Any = cast("dict[str, Any]", body).get("detail") if isinstance(body, dict) else None
    return f", {detail[:_LONGEST_DETAIL].rstrip('.')!r}" if isinstance(detail, str) else ""


def _is_json_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


def without_secrets(url: str) -> str:
    """`url` without user, password, query and fragment; what cannot be parsed is "(unreadable)"."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    # Without its slashes an address parses as a path, password and all.
    path = parts.path if host else parts.path.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, path, "", ""))


def may_hold_secrets(url: str) -> bool:
    """Whether `url` has a part that `without_secrets` leaves out."""
    parts = urlsplit(url)
    return "@" in parts.netloc or bool(parts.query or parts.fragment)
