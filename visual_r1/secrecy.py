"""Keys and passwords stay unsaid, whoever quotes them: a library's exception, a server's answer.

Every error that this program raises and every message that it logs passes here, before it can reach
a terminal, a log, a flow's state or a file. What is hidden are the secrets that this process has in
its environment or was told of, for as long as it lives, and the user and password of any address.
"""

import os
import re
from urllib.parse import urlsplit

HIDDEN = "(hidden)"

_SECRETS = (
    "TINKER_API_KEY",
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_API_DATABASE_PASSWORD",
    "PREFECT_SERVER_DATABASE_PASSWORD",
)
_ADDRESSES = ("TINKER_BASE_URL", "PREFECT_API_URL", "WANDB_BASE_URL", "HF_ENDPOINT")
"""Addresses whose query may be a secret."""

_SHORTEST = 8
"""What has fewer characters is a word that a sentence may need."""

_USER = re.compile(r"(?<=://)[^\s/?#\"'<>]+@")

_known: set[str] = set()
"""What was a secret once is not said later either: a key that was borrowed is taken back before the
last words of a flow."""


def hide_secrets(text: str) -> str:
    """`text` with `(hidden)` in place of each secret; as it was where there is none in it."""
    _look_around()
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return _USER.sub(f"{HIDDEN}@", text) if "://" in text else text


def keep_secret(value: str) -> None:
    """Hide `value` from here on: a key that comes from a file or a block of Prefect."""
    value = value.strip()
    if len(value) >= _SHORTEST:
        _known.add(value)


def keep_secrets_of(address: str) -> None:
    """Hide the password and the query of an address, wherever they stand by themselves."""
    if "?" not in address and "@" not in address:
        return
    try:
        parts = urlsplit(address)
    except ValueError:
        return
    keep_secret(parts.password or "")
    keep_secret(parts.query)


def _look_around() -> None:
    for name in _SECRETS:
        keep_secret(os.environ.get(name, ""))
    for name in _ADDRESSES:
        keep_secrets_of(os.environ.get(name, ""))
