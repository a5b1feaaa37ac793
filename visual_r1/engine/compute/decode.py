"""Sampling: sequences decode side by side, a row each, and others take the rows of those that end.

A step computes all rows: they need be neither of one prompt, nor of one length, nor of one age.
Every `check_every` tokens the host looks at what was sampled: which sequences are complete, and
whose turn it is. Rows are sequences, then dummies up to a multiple of 16 (see `batching`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, of_array, round_up
from visual_r1.engine.compute.cache import BLOCK
from visual_r1.engine.compute.prefill import Prefill
from visual_r1.engine.compute.sample_plan import SamplePlan
from visual_r1.engine.compute.sampling import (
    NUMBERS_AT_ONCE,
    SamplingRules,
    all_logprobs,
    likeliest,
    next_tokens,
)
from visual_r1.engine.compute.step import Step
from visual_r1.engine.types import SampledSequence, StopReason, TopkRow

COMPACT_BELOW = 0.9
"""Rows move together when those that go on would fill no more than this share."""


@dataclass
class OpenSequence:
    """One sample in the making."""

    plan: SamplePlan
    generator: np.random.Generator
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    topk: list[TopkRow] = field(default_factory=list[TopkRow])
    stop_reason: StopReason | None = None
    """None until it is complete."""

    @property
    def topk_wanted(self) -> int:
        """How many of the likeliest tokens to report a token."""
        return self.plan.request.topk_sample_logprobs

    def closed(self) -> SampledSequence:
        """The finished sample."""
        assert self.stop_reason is not None
        return SampledSequence(
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            stop_reason=self.stop_reason,
            topk=tuple(self.topk) if self.topk_wanted else None,
        )


class _Written:
    """What the host knows of each row: of [rows] each, and [rows, room] of what it sampled."""

    def __init__(self, rows: int) -> None:
        self.count = np.zeros(rows, np.int64)
        """Tokens sampled."""
        self.limit = np.zeros(rows, np.int64)
        self.place = np.zeros(rows, np.int64)
        """Of the cache, where the next token goes."""
        self.stops = np.full((rows, 1), -1)
        """Ids that end its answer, filled up with −1."""
        self.tokens = np.zeros((rows, 64), np.int64)
        self.logprobs = np.zeros((rows, 64), np.float32)
        self.numbers = np.zeros((rows, NUMBERS_AT_ONCE))
        """float64: of its stream, those of `NUMBERS_AT_ONCE` tokens."""

    def _all(self) -> Sequence[str]:
        return ("count", "limit", "place", "stops", "tokens", "logprobs", "numbers")

    def grow(self, rows: int) -> None:
        """Room for so many rows."""
        for name in self._all():
            values: np.ndarray = getattr(self, name)
            wide = np.zeros((rows, *values.shape[1:]), values.dtype)
            wide[: len(values)] = values
            setattr(self, name, wide)

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Rows `target` become what rows `source` are."""
        for name in self._all():
            values: np.ndarray = getattr(self, name)
            values[target] = values[source]

    def start(self, row: int, one: OpenSequence, place: int) -> None:
        """A sequence begins in this row."""
        self.count[row], self.limit[row], self.place[row] = 0, one.plan.max_tokens, place
        ids = list(one.plan.stop.tokens)
        missing = len(ids) - self.stops.shape[1]
        if missing > 0:
            self.stops = np.pad(self.stops, ((0, 0), (0, missing)), constant_values=-1)
        self.stops[row] = -1
        self.stops[row, : len(ids)] = ids

    def uniforms(self, rows: int, k: int) -> np.ndarray:
        """float64 [rows, k], the numbers of each row's next k tokens."""
        next_ones = (self.count[:rows, None] + np.arange(k)) % NUMBERS_AT_ONCE
        return self.numbers[np.arange(rows)[:, None], next_ones]

    def add(self, rows: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> "_Taken":
        """Take in k tokens of each of these rows, [n, k] both."""
        n, k = tokens.shape
        ends = (tokens[..., None] == self.stops[rows][:, None]).any(-1)
        first: np.ndarray = ends.argmax(1) + 1
        first[~ends.any(1)] = k
        taken: np.ndarray = np.minimum(first, self.limit[rows] - self.count[rows])
        needed = int(self.count[rows].max()) + k
        if needed > self.tokens.shape[1]:
            wider = ((0, 0), (0, needed))
            self.tokens, self.logprobs = np.pad(self.tokens, wider), np.pad(self.logprobs, wider)
        for column in range(k):
            self.tokens[rows, self.count[rows] + column] = tokens[:, column]
            self.logprobs[rows, self.count[rows] + column] = logprobs[:, column]
        self.place[rows] += k
        return _Taken(taken, ends[np.arange(n), taken - 1])


@dataclass
class _Taken:
    """Of the k tokens that rows sampled."""

    count: np.ndarray
    """int64 [n]: how many belong to the answer; the others were sampled behind its end."""
    stopped: np.ndarray
    """bool [n]: whether the last of them ends it."""


class _Members:
    """The rows that sequences are in."""

    def __init__(self, sequences: Sequence[OpenSequence | None]) -> None:
        self.open = [(row, one) for row, one in enumerate(sequences) if one is not None]
        self.rows = np.array([row for row, _ in self.open], np.int64)
        self.topk_wanted = {one.topk_wanted for _, one in self.open if one.topk_wanted}
        self.looked_into = [
            (at, row, one)
            for at, (row, one) in enumerate(self.open)
            if one.topk_wanted or one.plan.stop.strings
        ]
        self.requests = {id(one.plan): one.plan.request for _, one in self.open}.values()


class Decoding:
    """Rows that decode with the weights that are bound."""

    def __init__(
        self, base: BaseModel, step: Step, *, rows: int, places: int, check_every: int
    ) -> None:
        """Room for so many sequences of so many places, at first; see `DeviceRules.check_every`."""
        self._base = base
        self._step = step
        self._check_every = check_every
        rows = round_up(rows, ROWS)
        block = base.rules.cache_block
        self._cache = step.cache(rows, round_up(places, BLOCK), block)
        self._sequences: list[OpenSequence | None] = [None] * rows
        self._members = _Members(self._sequences)
        self._written = _Written(rows)
        self._rules: SamplingRules | None = None
        self._tokens = torch.zeros(rows, dtype=torch.long, device=base.device)
        self._positions = torch.zeros_like(self._tokens)
        self._room = torch.zeros(rows, base.vocabulary_size, device=base.device)
        self._rows = 0
        self.logits = self._room[:0]
        """float32 [R, V] of each row's next token."""
        self._reach = 0
        self._waits = False
        """Whether the tokens chosen last have still to be computed."""

    @property
    def alive(self) -> int:
        """Sequences that are not complete."""
        return len(self._members.open)

    @property
    def held_bytes(self) -> int:
        """The memory that its rows have taken: what layers keep of them, and their logits."""
        kept = self._base.cache_bytes
        states = kept.per_sequence * len(self._sequences)
        return kept.per_place * self._cache.held_places + states + self._room.nbytes

    def join(self, sequences: Sequence[tuple[int, OpenSequence]], prompts: Prefill) -> None:
        """Let sequences in; each continues its prompt, whose place among the prompts is named."""
        missing = len(sequences) - self._sequences.count(None)
        if missing > 0:
            self._grow(round_up(len(self._sequences) + missing, ROWS))
        slots = [row for row, one in enumerate(self._sequences) if one is None][: len(sequences)]
        source = [place for place, _ in sequences]
        first = self._cache.join(slots, prompts.cache, source, prompts.lengths)
        for slot, (_, one) in zip(slots, sequences, strict=True):
            self._sequences[slot] = one
            self._written.start(slot, one, first)
            self._reach = max(self._reach, one.plan.layout.next_position + one.plan.max_tokens)
        rows = self._whole(slots)
        self._room[rows] = prompts.logits[self._whole(source)]
        starts = [one.plan.layout.next_position for _, one in sequences]
        self._positions[rows] = self._whole(starts)
        self._step.reach(self._reach + self._check_every)
        self._show(max(self._rows, round_up(max(slots) + 1, ROWS)))

    def ready(self) -> None:
        """Compute what was chosen last, so that every row has the logits of its next token."""
        if not self._waits:
            return
        self._waits = False
        alive = self._members.rows.tolist()
        # The last token of a sequence is never computed: nothing comes behind it.
        if not alive:
            self._show(0)
            return
        if round_up(len(alive), ROWS) <= COMPACT_BELOW * self._rows:
            self._compact(alive)
        self._forward()

    def run(self) -> list[OpenSequence]:
        """Sample `check_every` tokens a row; returns the sequences that are complete."""
        k, written = self._check_every, self._written
        rows, topk_wanted = self._members.rows, self._members.topk_wanted
        self._look(k)
        empty: list[int] = rows[written.count[rows] % NUMBERS_AT_ONCE == 0].tolist()
        for row in empty:
            one = self._sequences[row]
            assert one is not None
            written.numbers[row] = one.generator.random(NUMBERS_AT_ONCE)
        uniforms = of_array(written.uniforms(self._rows, k)).to(self._base.device)
        tokens: list[Tensor] = []
        logps: list[Tensor] = []
        topk: list[dict[int, list[TopkRow]]] = []
        for column in range(k):
            if column:
                self._forward()
            chosen, logp = self.choose(uniforms[:, column])
            self._tokens[: self._rows] = chosen
            tokens.append(chosen)
            logps.append(logp)
            if topk_wanted:
                # Each k by itself: with another k equally likely tokens may be others.
                of_all = all_logprobs(self.logits)
                topk.append({wanted: likeliest(of_all, wanted) for wanted in topk_wanted})
        self._waits = True
        taken = written.add(rows, _columns(tokens)[rows], _columns(logps)[rows])
        return self._settle(taken, topk)

    def choose(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """One token a row, int64 [R], and its log-probability, float32 [R]."""
        if self._rules is None:
            self._rules = self._sampling_rules()
        return next_tokens(self.logits, self._rules, uniforms)

    def _forward(self) -> None:
        """One step: the tokens enter the cache, and the logits of the next ones come out."""
        positions = self._positions[: self._rows]
        self._step(self._tokens[: self._rows], positions, self._cache, self.logits)
        # A row past its end stays within what the step is ready for.
        positions.add_(1).clamp_(max=self._reach)

    def _settle(
        self, taken: _Taken, topk: Sequence[Mapping[int, Sequence[TopkRow]]]
    ) -> list[OpenSequence]:
        """Give the sequences what was sampled for them; those that are complete leave."""
        written, members = self._written, self._members
        for at, row, one in members.looked_into:
            if one.plan.stop.strings:
                self._look_for_strings(row, one, taken, at)
            if k := one.topk_wanted:
                one.topk += (column[k][row] for column in topk[: taken.count[at]])
        written.count[members.rows] += taken.count
        ended = taken.stopped | (written.count[members.rows] == written.limit[members.rows])
        if any(request.abandoned.is_set() for request in members.requests):
            ended |= [one.plan.request.abandoned.is_set() for _, one in members.open]
        finished: list[OpenSequence] = []
        for at in np.flatnonzero(ended):
            row, one = members.open[at]
            count = written.count[row]
            one.tokens = written.tokens[row, :count].tolist()
            one.logprobs = written.logprobs[row, :count].tolist()
            one.stop_reason = "stop" if taken.stopped[at] else "length"
            self._sequences[row] = None
            self._cache.leave(row)
            finished.append(one)
        if finished:
            self._members = _Members(self._sequences)
        return finished

    def _look_for_strings(self, row: int, one: OpenSequence, taken: _Taken, at: int) -> None:
        """Cut what was taken behind the first token that completes one of the stop strings."""
        before, new = int(self._written.count[row]), int(taken.count[at])
        # No stop string begins earlier.
        start = max(0, before + 1 - one.plan.stop.longest)
        answer: list[int] = self._written.tokens[row, start : before + new].tolist()
        for count in range(1, new + 1):
            if one.plan.stop.completes(answer[: before - start + count]):
                taken.count[at], taken.stopped[at] = count, True
                return

    # -- rows -------------------------------------------------------------------------------------

    def _compact(self, alive: Sequence[int]) -> None:
        """Move the last rows to where there is room, and look at fewer."""
        rows = round_up(len(alive), ROWS)
        source = [row for row in alive if row >= rows]
        target = [row for row in range(rows) if self._sequences[row] is None][: len(source)]
        if source:
            self._written.move(source, target)
            self._cache.move(source, target)
            moved, to = self._whole(source), self._whole(target)
            for values in (self._tokens, self._positions):
                values[to] = values[moved]
            for old, new in zip(source, target, strict=True):
                self._sequences[new], self._sequences[old] = self._sequences[old], None
        self._show(rows)

    def _show(self, rows: int) -> None:
        self._rows = rows
        self.logits = self._room[:rows]
        self._rules = None
        self._members = _Members(self._sequences)
        self._look(1)

    def _look(self, further: int) -> None:
        """Let the cache show what the rows have written, and so many places more."""
        written, alive = self._written, self._members.rows
        left = written.limit[alive] - written.count[alive]
        places = written.place[alive]
        self._cache.show(
            self._rows,
            further + int(places.max(initial=0)),
            self._check_every + int((places + left).max(initial=0)),
        )

    def _grow(self, rows: int) -> None:
        more = rows - len(self._sequences)
        self._sequences += [None] * more
        self._written.grow(rows)
        self._tokens, self._positions, self._room = (
            torch.cat([values, values.new_zeros(more, *values.shape[1:])])
            for values in (self._tokens, self._positions, self._room)
        )

    def _whole(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._base.device)

    def _sampling_rules(self) -> SamplingRules:
        # Rows that nobody is in take the rules of one that somebody is in.
        some = next(one for one in self._sequences if one is not None)
        rows = [(one or some).plan.settings for one in self._sequences[: self._rows]]
        return SamplingRules.of(rows, self._base.vocabulary_size, self._base.device)


def _columns(parts: Sequence[Tensor]) -> np.ndarray:
    """k tensors [R] as the columns of an array [R, k]."""
    together = parts[0][:, None] if len(parts) == 1 else torch.stack(list(parts), dim=1)
    return together.cpu().numpy()  # pyright: ignore[reportUnknownMemberType]
