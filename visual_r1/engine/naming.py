"""Names of models and checkpoints: `tinker://{model id}/{kind}/{name}`, and where they lie on disk.

Everything that becomes part of a file name is checked here, so that no client can reach a file
outside the engine's home folder.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from visual_r1.engine.requests import InvalidRequest

CheckpointKind: TypeAlias = Literal["weights", "sampler_weights", "external_weights"]

_KINDS = ("weights", "sampler_weights", "external_weights")
_SCHEME = "tinker://"
_MODEL_ID = re.compile(r"([0-9a-f]{8,64}):train:(0|[1-9][0-9]{0,17})")
_NAME = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,127}")


@dataclass(frozen=True, order=True)
class CheckpointPath:
    """The parsed form of `tinker://{model_id}/{kind}/{name}`."""

    model_id: str
    kind: CheckpointKind
    name: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.model_id}/{self.kind}/{self.name}"

    @property
    def checkpoint_id(self) -> str:
        """`{kind}/{name}`, the form in which listings and REST calls name a checkpoint."""
        return f"{self.kind}/{self.name}"


def model_id_of(session_id: str, model_seq_id: int) -> str:
    """Return the id of a session's n-th model. Raises `InvalidRequest` on a negative number."""
    if model_seq_id < 0:
        raise InvalidRequest(f"model_seq_id is {model_seq_id}; it counts from 0.")
    return f"{session_id}:train:{model_seq_id}"


def split_model_id(model_id: str) -> tuple[str, int]:
    """Return (session id, number) of a model id. Raises `InvalidRequest` on any other text."""
    match = _MODEL_ID.fullmatch(model_id)
    if match is None:
        raise InvalidRequest(
            f"{model_id!r} is not a model id of this engine; they look like <session>:train:<n>."
        )
    return match.group(1), int(match.group(2))


def session_of(model_id: str) -> str:
    """The session that made a model. Raises `InvalidRequest` when the id is none."""
    return split_model_id(model_id)[0]


def check_name(name: str) -> str:
    """Return a checkpoint's name when it is safe. Raises `InvalidRequest` else."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"the checkpoint name {name[:140]!r} is not allowed: use 1 to 128 letters, digits or "
            "any of . _ - = + @, without a dot in front."
        )
    return name


def checkpoint_path(model_id: str, kind: str, name: str) -> CheckpointPath:
    """Return the checked path. Raises `InvalidRequest` when a part of it is wrong."""
    split_model_id(model_id)
    if kind not in _KINDS:
        raise InvalidRequest(
            f"{kind!r} is not a kind of checkpoint; there are {', '.join(_KINDS)}."
        )
    return CheckpointPath(model_id, kind, check_name(name))


def parse_path(text: str) -> CheckpointPath:
    """Parse `tinker://{model id}/{kind}/{name}`. Raises `InvalidRequest` on anything else."""
    parts = text.removeprefix(_SCHEME).split("/")
    if not text.startswith(_SCHEME) or len(parts) != 3:
        raise InvalidRequest(
            f"{text[:200]!r} is not a checkpoint path; "
            "they look like tinker://<model id>/weights/<name>."
        )
    return checkpoint_path(*parts)
