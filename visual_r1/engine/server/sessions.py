"""Client sessions and their samplers, as long as their clients live, and a while longer."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeAlias

from visual_r1.engine.store.records import CheckpointPath, SessionEnd, SessionRecord
from visual_r1.engine.types import InvalidRequest

SILENT_FOR_GOOD_S = 3600.0
"""A session of whose client nothing was heard for so long is over; the SDK sends a heartbeat every
10 seconds."""

KNOWN_AFTER_END_S = 3600.0
"""For so long who asks for something of an ended session is told that it is over. The SDK repeats
a POST for five minutes, so nobody asks later but a client that slept."""


class UnknownId(InvalidRequest):
    """No session, model or sampler has this id in the running engine."""


class SessionOver(InvalidRequest):
    """The session has ended: by its client, or since its client went without a word."""


@dataclass(frozen=True)
class BaseModelWeights:
    """A sampler of the base model without an adapter."""


@dataclass(frozen=True)
class CheckpointWeights:
    """A sampler of a checkpoint on disk, of that version of it."""

    path: CheckpointPath
    version: str


@dataclass(frozen=True)
class EphemeralWeights:
    """A sampler of weights that have no name and end with their session."""

    key: str


@dataclass(frozen=True)
class InflightWeights:
    """A sampler of what its model published last: later saves of that kind change it."""

    model_id: str


UnnamedWeights: TypeAlias = EphemeralWeights | InflightWeights
WeightsKey: TypeAlias = BaseModelWeights | CheckpointWeights | UnnamedWeights


@dataclass(frozen=True)
class SamplerSession:
    """What `create_sampling_session` or a save without a name made."""

    sampler_id: str
    base_model: str
    weights: WeightsKey
    content: str = ""
    """A digest of the request that made it."""
    clones: Iterator[int] = field(default_factory=lambda: count(1), compare=False)
    """Numbers for the copies of the client that made it, which has number 0."""

    @property
    def model_path(self) -> str | None:
        """The checkpoint it samples from, if it has a path."""
        return str(self.weights.path) if isinstance(self.weights, CheckpointWeights) else None


@dataclass
class ClientSession:
    """One ServiceClient."""

    record: SessionRecord
    last_seen_s: float
    model_ids: list[str] = field(default_factory=list[str])
    sampler_ids: list[str] = field(default_factory=list[str])
    ended_at_s: float | None = None

    @property
    def over(self) -> str:
        """The sentence for who still asks for something of it; empty while it is open."""
        end = self.record.end
        if end is None:
            return ""
        silent = end.reason == "silent"
        how = "no heartbeat came for an hour" if silent else "its client finished it"
        return f"the session {self.record.session_id} is over: {how}."


class Sessions:
    """The open sessions, and those that ended within an hour. Lives on the event loop."""

    def __init__(self) -> None:
        self._sessions: dict[str, ClientSession] = {}
        self._samplers: dict[str, SamplerSession] = {}

    def create(self, record: SessionRecord, now_s: float) -> ClientSession:
        """Open a session."""
        session = ClientSession(record, now_s)
        self._sessions[record.session_id] = session
        return session

    def live(self, session_id: str) -> ClientSession:
        """The open session of that id. Raises `UnknownId` or `SessionOver`."""
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownId(
                f"the session {session_id} is not known to this engine, which may have been "
                "restarted since: make a new ServiceClient and load the last checkpoint."
            )
        if session.over:
            raise SessionOver(session.over)
        return session

    def all(self) -> list[ClientSession]:
        """Every session that is known."""
        return list(self._sessions.values())

    def find(self, session_id: str) -> ClientSession | None:
        """The session of that id, open or ended within an hour."""
        return self._sessions.get(session_id)

    def unheard(self, now_s: float, seconds: float) -> list[ClientSession]:
        """Open sessions whose clients gave no sign of life for so long."""
        return [
            session
            for session in self._sessions.values()
            if not session.over and now_s - session.last_seen_s > seconds
        ]

    def end(self, session: ClientSession, end: SessionEnd, now_s: float) -> list[SamplerSession]:
        """Close a session; returns its samplers, which go with it."""
        session.record = replace(session.record, end=end)
        session.ended_at_s = now_s
        return [self._samplers.pop(sampler_id) for sampler_id in session.sampler_ids]

    def sweep(self, now_s: float) -> None:
        """Forget the sessions that ended long ago."""
        for session in self.all():
            if session.ended_at_s is not None and now_s - session.ended_at_s > KNOWN_AFTER_END_S:
                del self._sessions[session.record.session_id]

    def add_sampler(self, session: ClientSession, sampler: SamplerSession) -> SamplerSession:
        """Open a sampler. Raises `InvalidRequest` where there is one of its id."""
        if sampler.sampler_id in self._samplers:
            raise InvalidRequest(f"the sampler {sampler.sampler_id} exists already.")
        self._samplers[sampler.sampler_id] = sampler
        session.sampler_ids.append(sampler.sampler_id)
        return sampler

    def sampler(self, sampler_id: str) -> SamplerSession:
        """The sampler of that id. Raises `UnknownId`."""
        sampler = self._samplers.get(sampler_id)
        if sampler is None:
            raise UnknownId(
                f"the sampler {sampler_id} is not known to this engine: its session is over or the "
                "engine was restarted; make a new sampling client."
            )
        return sampler

    def find_sampler(self, sampler_id: str) -> SamplerSession | None:
        """The sampler of that id, if there is one."""
        return self._samplers.get(sampler_id)

    def weights_in_use(self) -> set[WeightsKey]:
        """What the open samplers sample with."""
        return {sampler.weights for sampler in self._samplers.values()}


def sampler_id_of(session_id: str, seq_id: int) -> str:
    """The id of a session's n-th sampler. Raises `InvalidRequest` on a negative number."""
    if seq_id < 0:
        raise InvalidRequest(f"sampling_session_seq_id is {seq_id}; it counts from 0.")
    return f"{session_id}:sample:{seq_id}"


def new_session_id() -> str:
    """An id that no engine gives twice, also after a restart: model ids are built on it."""
    return uuid.uuid4().hex
