"""Keys of a run: from the environment, else from Secret blocks of the Prefect server.

A key of a block is put into this process' own environment, for as long as a flow or a command
works: where Tinker's SDK, W&B and the hub look for it. W&B's own process inherits it, the engine
does not. It is in no parameter, log, artifact or file. A key alone never chooses a server: only a
configuration that asks for a paid one is given one.
"""

import os
from functools import partial
from typing import NamedTuple

from tasks.environment import users_settings
from visual_r1.config import RunConfig
from visual_r1.printing import open_logger
from visual_r1.secrecy import keep_secret

logger = open_logger("visual_r1.tasks")


class Key(NamedTuple):
    """A key: the variable it is read from, and the Secret block that may hold it instead."""

    variable: str
    block: str


TINKER = Key("TINKER_API_KEY", "tinker-api-key")
WANDB = Key("WANDB_API_KEY", "wandb-api-key")
HUB = Key("HF_TOKEN", "hf-token")
KEYS = (TINKER, WANDB, HUB)

_borrowed: set[str] = set()
"""Variables that hold a block's value in this process."""


def borrow_keys(config: RunConfig) -> None:
    """Put the keys that `config` asks for, and that the environment lacks, into this process.

    It needs a Prefect server that the user's settings name. Where that one does not answer, it is
    said, and the run goes on with the keys that are there. Raises `ConfigError` where Prefect's
    settings cannot be read.
    """
    wanted = [key for key in keys_wanted(config) if not os.environ.get(key.variable)]
    if not wanted:
        return
    if users_settings(config.state_dir.absolute() / "prefect").api.url is None:
        return
    borrowed = {key.variable: value for key in wanted if (value := secret_of(key)) is not None}
    os.environ |= borrowed
    _borrowed.update(borrowed)
    if borrowed:
        from tasks.outcome import when_it_ends

        when_it_ends(partial(_return, list(borrowed)))


def _return(variables: list[str]) -> None:
    """Take keys that were borrowed out of this process again."""
    for variable in variables:
        _borrowed.discard(variable)
        os.environ.pop(variable, None)


def keys_wanted(config: RunConfig) -> list[Key]:
    """The keys that a run of `config` uses where they are there."""
    backend = config.backend
    remote = backend.server == "remote" or bool(backend.base_url)
    to_another = backend.server != "embedded" and bool(os.environ.get("TINKER_BASE_URL"))
    wanted = [TINKER] if remote or to_another else []
    if config.logging.told == "wandb":
        wanted.append(WANDB)
    return [*wanted, HUB]


def secret_of(key: Key) -> str | None:
    """The value of the key's block; None where there is no such block."""
    # Here, since whoever has all keys in the environment should not wait for it.
    from prefect.blocks.system import Secret

    from tasks.outcome import SERVER_FAILURES

    try:
        value = Secret.load(key.block, _sync=True).get()  # pyright: ignore[reportCallIssue]
    except ValueError:  # what Prefect says of a block that is not there
        return None
    except SERVER_FAILURES as error:
        logger.warning(
            "The Prefect server cannot be asked for the Secret block %s (%s).",
            key.block,
            type(error).__name__,
        )
        return None
    if not isinstance(value, str) or not value.strip():
        return None
    keep_secret(value)
    return value.strip()


def source_of_key(key: Key) -> str | None:
    """Where this process has the key from, for `doctor`; None where it has none."""
    if key.variable in _borrowed:
        return f"Secret block {key.block} of the Prefect server"
    return "the environment" if os.environ.get(key.variable) else None
