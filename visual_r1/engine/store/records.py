"""Sessions, training runs and checkpoints: their names, and what is written down of them as JSON.

A model is `{session}:train:{n}`, a checkpoint `tinker://{model id}/{kind}/{name}`. Everything that
becomes part of a file name is checked here, so that no client can reach a file outside the engine's
home folder.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BeforeValidator, TypeAdapter

from visual_r1.engine.types import InvalidRequest, LoraSpec

CheckpointKind: TypeAlias = Literal["weights", "sampler_weights", "external_weights"]


KINDS: tuple[CheckpointKind, ...] = ("weights", "sampler_weights", "external_weights")
NO_PROJECT = "local"
"""The project of a session that names none. Projects are labels here: every key sees them all."""

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


def checkpoint_path(model_id: str, kind: str, name: str) -> CheckpointPath:
    """Return the checked path. Raises `InvalidRequest` when a part of it is wrong."""
    split_model_id(model_id)
    if kind not in KINDS:
        raise InvalidRequest(f"{kind!r} is not a kind of checkpoint; there are {', '.join(KINDS)}.")
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"the checkpoint name {name[:140]!r} is not allowed: use 1 to 128 letters, digits or "
            "any of . _ - = + @, without a dot in front."
        )
    return CheckpointPath(model_id, kind, name)


def parse_path(text: str) -> CheckpointPath:
    """Parse `tinker://{model id}/{kind}/{name}`. Raises `InvalidRequest` on anything else."""
    parts = text.removeprefix(_SCHEME).split("/")
    if not text.startswith(_SCHEME) or len(parts) != 3:
        raise InvalidRequest(
            f"{text[:200]!r} is not a checkpoint path; "
            "they look like tinker://<model id>/weights/<name>."
        )
    return checkpoint_path(*parts)


@dataclass(frozen=True)
class SessionEnd:
    """How a session ended: what its client said, or `silent` when it went without a word."""

    reason: Literal["success", "errored", "interrupted", "silent"]
    detail: str | None = None


@dataclass(frozen=True)
class SessionRecord:
    """One ServiceClient's session."""

    session_id: str
    created_at: datetime
    display_name: str | None = None
    user_metadata: dict[str, str] = field(default_factory=dict[str, str])
    project_id: str = NO_PROJECT
    end: SessionEnd | None = None


@dataclass(frozen=True)
class RunRecord:
    """One model that was created for training."""

    model_id: str
    base_model: str
    spec: LoraSpec
    created_at: datetime
    user_metadata: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint as it was written; `digest` is that of `visual_r1.hashing`."""

    bytes: int
    digest: str
    """Empty in a record from before digests: the file then goes unverified."""


def _without_digests(files: object) -> object:
    """Records had sizes alone once."""
    if not isinstance(files, dict):
        return files
    return {
        name: {"bytes": value, "digest": ""} if isinstance(value, int) else value
        for name, value in cast("dict[str, Any]", files).items()
    }


@dataclass(frozen=True)
class CheckpointRecord:
    """One finished checkpoint; `files` are those beside the manifest."""

    path: CheckpointPath
    base_model: str
    spec: LoraSpec
    optimizer: bool
    created_at: datetime
    expires_at: datetime | None = None
    spared: bool = False
    """Whether it was over when an engine started, and was given a day more."""
    public: bool = False
    user_metadata: dict[str, str] | None = None
    files: Annotated[dict[str, StoredFile], BeforeValidator(_without_digests)] = field(
        default_factory=dict[str, StoredFile]
    )

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the checkpoint."""
        return sum(file.bytes for file in self.files.values())

    @property
    def has_digests(self) -> bool:
        """Whether damage can be told; a record from before digests cannot."""
        return all(file.digest for file in self.files.values())

    def expired(self, now: datetime) -> bool:
        """Whether its time to live is over."""
        return self.expires_at is not None and self.expires_at <= now


SESSION = TypeAdapter(SessionRecord)
RUN = TypeAdapter(RunRecord)
CHECKPOINT = TypeAdapter(CheckpointRecord)
