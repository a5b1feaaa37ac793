"""What was sampled in which session, and whether training data are what they say they are.

A datum may name the sampled sequence behind each of its places (`Datum.with_provenance` in the
SDK). A sequence belongs to the session that it was sampled in, which alone can train on it. What
samplers draw that were made with `record_stability_info=True` is kept here, prompt, tokens and
log-probabilities, until a day has passed since it was sampled or last trained on, or the session
ends; of other sequences it is known that they were there.

What Tinker's stable_reinforce records beside that is not public, so nothing else is kept.
"""

import hashlib
import time
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.losses import NEEDS_PROVENANCE
from visual_r1.engine.types import Datum, InvalidRequest, Prompt, SampleOutput, Span

KEPT_FOR_S = 24 * 3600.0

_TOGETHER = 64


@dataclass
class _Recorded:
    """One sample request: its P prompt places (see `_places`) and its sequences."""

    prompt: np.ndarray
    tokens: tuple[np.ndarray, ...]
    """int64 each."""
    logprobs: tuple[np.ndarray, ...]
    """float32 each."""
    used_s: float


class _Counts:
    """How many sequences the requests of a session had, two bytes each: a session may ask a million
    times."""

    def __init__(self) -> None:
        # By sampler and the numbers of its requests, many together; 0 where there was none.
        self._blocks: dict[tuple[str, int], array[int]] = {}

    def note(self, request_id: str, count: int) -> None:
        sampler, number = _sampler_and_number(request_id)
        if number is not None:
            block = self._blocks.setdefault(
                (sampler, number // _TOGETHER), array("H", [0] * _TOGETHER)
            )
            block[number % _TOGETHER] = count

    def of(self, request_id: str) -> int:
        sampler, number = _sampler_and_number(request_id)
        block = None if number is None else self._blocks.get((sampler, number // _TOGETHER))
        return 0 if number is None or block is None else block[number % _TOGETHER]


def _sampler_and_number(request_id: str) -> tuple[str, int | None]:
    sampler, _, number = request_id.rpartition(":")
    # A request's number has 64 bits; Python refuses to read numbers without an end.
    is_number = number.isascii() and number.isdigit() and len(number) < 20
    return sampler, int(number) if is_number else None


@dataclass
class _Session:
    recorded: dict[str, _Recorded] = field(default_factory=dict[str, _Recorded])
    counts: _Counts = field(default_factory=_Counts)


class ProvenanceTable:
    """The sequences of the open sessions. Belongs to the worker thread."""

    def __init__(self, compute: Compute, clock: Callable[[], float] = time.monotonic) -> None:
        self._compute = compute
        self._clock = clock
        self._sampled: dict[str, _Session] = {}

    def add(self, request_id: str, prompt: Prompt, output: SampleOutput, *, record: bool) -> None:
        """The sequences of a request, which are called `{request_id}:{place}`."""
        session = self._sampled.setdefault(request_id.partition(":")[0], _Session())
        if not record:
            session.counts.note(request_id, len(output.sequences))
            return
        session.recorded[request_id] = _Recorded(
            _places(self._compute, prompt),
            tuple(np.asarray(one.tokens, np.int64) for one in output.sequences),
            tuple(np.asarray(one.logprobs, np.float32) for one in output.sequences),
            self._clock(),
        )

    def forget(self, session_id: str) -> None:
        """A session has ended, and what it sampled is no longer to be trained on."""
        self._sampled.pop(session_id, None)

    def sweep(self, live: Collection[str]) -> None:
        """Forget what nobody has trained on for a day, and all of sessions that are not `live`."""
        long_ago = self._clock() - KEPT_FOR_S
        # A sample may come to its end after its session.
        for session_id in self._sampled.keys() - set(live):
            del self._sampled[session_id]
        for session in self._sampled.values():
            for request_id, found in list(session.recorded.items()):
                if found.used_s < long_ago:
                    del session.recorded[request_id]

    def check(self, session_id: str, loss_fn: str, data: Sequence[Datum]) -> None:
        """Check where the data of a training request of the session say that they are from.

        Raises `InvalidRequest` naming the datum: where it names a sequence that is not known, or of
        another session, or that has other tokens or log-probabilities; and where the loss needs
        what was recorded, and the datum names nothing, or what was not recorded.
        """
        for index, datum in enumerate(data):
            try:
                self._check(session_id, loss_fn, datum)
            except InvalidRequest as error:
                raise InvalidRequest(f"datum {index}: {error}") from error

    def _check(self, session_id: str, loss_fn: str, datum: Datum) -> None:
        needed = loss_fn == NEEDS_PROVENANCE
        provenance = datum.provenance
        if provenance is None:
            if needed:
                raise InvalidRequest(
                    f"{loss_fn} needs its provenance (Datum.with_provenance), and it has none."
                )
            return
        read = _places(self._compute, datum.prompt)
        _require_tiled("model_input", provenance.read, len(read))
        targets = datum.inputs.get("target_tokens")
        rows = len(read) if targets is None else len(targets)
        _require_tiled("loss_fn_inputs", provenance.targets, rows)
        at = 0
        for span in provenance.read:
            self._check_span(session_id, span, needed, read[at : at + span.length], None)
            at += span.length
        at = 0
        for span in provenance.targets:
            here = slice(at, at + span.length)
            at += span.length
            # Targets of a prompt's places teach nothing and are often 0: only sampled ones count.
            tokens = targets[here] if span.sampled and targets is not None else None
            q = datum.inputs.get("logprobs") if span.sampled else None
            self._check_span(session_id, span, needed, tokens, None if q is None else q[here])

    def _check_span(
        self,
        session_id: str,
        span: Span,
        needed: bool,
        tokens: np.ndarray | None,
        logprobs: np.ndarray | None,
    ) -> None:
        name = span.sequence_id[:200]
        request_id, _, number = span.sequence_id.rpartition(":")
        owner = span.sequence_id.partition(":")[0]
        if owner != session_id and owner in self._sampled:
            raise InvalidRequest(
                f"its provenance names the sequence {name}, which was sampled in another session: "
                "sample and train with clients of one ServiceClient."
            )
        session = self._sampled.get(session_id, _Session())
        found = session.recorded.get(request_id)
        count = session.counts.of(request_id) if found is None else len(found.tokens)
        # Nobody samples a billion at once, and Python refuses to read numbers without an end.
        is_number = number.isascii() and number.isdigit() and len(number) < 10
        if not is_number or int(number) >= count:
            raise InvalidRequest(
                f"its provenance names the sequence {name}, which this session has not sampled, or "
                "not within a day: sample again."
            )
        if found is None:
            if needed:
                raise InvalidRequest(
                    f"its provenance names the sequence {name}, of which nothing was recorded: "
                    "make its sampler with record_stability_info=True."
                )
            return
        found.used_s = self._clock()
        place = int(number)
        whole = found.tokens[place] if span.sampled else found.prompt
        what = "sampled tokens" if span.sampled else "prompt tokens"
        if span.offset + span.length > len(whole):
            raise InvalidRequest(
                f"its provenance names the {what} {span.offset} to {span.offset + span.length - 1} "
                f"of the sequence {name}, which has {len(whole)}."
            )
        where = slice(span.offset, span.offset + span.length)
        if tokens is not None and (tokens.ndim > 1 or not np.array_equal(tokens, whole[where])):
            raise InvalidRequest(
                f"it has other tokens than the {what} {span.offset} to "
                f"{span.offset + span.length - 1} of the sequence {name}, which its provenance "
                "names there."
            )
        if logprobs is not None and not np.array_equal(
            logprobs.astype(np.float32), found.logprobs[place][where]
        ):
            raise InvalidRequest(
                f"its logprobs are not those that the sequence {name} was sampled with, which its "
                "provenance names there."
            )


def _require_tiled(field: str, spans: Sequence[Span], length: int) -> None:
    if any(span.length < 0 or span.offset < 0 for span in spans):
        raise InvalidRequest(f"a run of its provenance of {field} is negative.")
    covered = sum(span.length for span in spans)
    if covered != length:
        raise InvalidRequest(
            f"the runs of its provenance of {field} cover {covered} places, and it has {length}."
        )


def _places(compute: Compute, prompt: Prompt) -> np.ndarray:
    """int64 [P]: a token's id, and for each token of an image a number below 0 of its own."""
    layout = compute.layout(prompt)
    places = layout.tokens.copy()
    at = np.flatnonzero(layout.is_image)
    for image in layout.images:
        digest = hashlib.blake2b(image.digest, digest_size=7).digest()
        mine, at = at[: image.tokens], at[image.tokens :]
        places[mine] = -1 - int.from_bytes(digest) - np.arange(len(mine))
    return places
