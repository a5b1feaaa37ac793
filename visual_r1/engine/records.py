"""What the engine writes down about sessions, training runs and checkpoints, as JSON."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import TypeAdapter

from visual_r1.engine.naming import CheckpointPath
from visual_r1.engine.requests import LoraSpec

T = TypeVar("T")

NO_PROJECT = "local"
"""The project of a session that names none. Projects are labels here: every key sees them all."""


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
class CheckpointRecord:
    """One finished checkpoint; `files` are those beside the manifest, with their sizes in bytes."""

    path: CheckpointPath
    base_model: str
    spec: LoraSpec
    optimizer: bool
    created_at: datetime
    expires_at: datetime | None = None
    public: bool = False
    user_metadata: dict[str, str] | None = None
    files: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the checkpoint."""
        return sum(self.files.values())

    def expired(self, now: datetime) -> bool:
        """Whether its time to live is over."""
        return self.expires_at is not None and self.expires_at <= now


class RecordFormat(Generic[T]):
    """A record to JSON and back; reading checks every field."""

    def __init__(self, record_type: type[T]) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(record_type)

    def dump(self, record: T) -> str:
        """Return the record as indented JSON text."""
        return self._adapter.dump_json(record, indent=2).decode() + "\n"

    def load(self, text: bytes) -> T:
        """Return the record. Raises `pydantic.ValidationError` when it is damaged."""
        return self._adapter.validate_json(text)


SESSION_FORMAT = RecordFormat(SessionRecord)
RUN_FORMAT = RecordFormat(RunRecord)
CHECKPOINT_FORMAT = RecordFormat(CheckpointRecord)
