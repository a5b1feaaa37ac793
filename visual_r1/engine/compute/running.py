"""What decodes now with one set of weights: requests join while others run, and leave when done.

    batch = compute.open_batch(weights)
    while there is work:
        while batch.free_rows > 0 and a request waits:
            ticket = batch.admit(request)        # raises InvalidRequest, and nothing has changed
        progress = batch.advance()
        progress.answered, progress.said

`advance` takes some steps for all rows and gives back, by ticket, each request that is complete.
The memory that is free decides how many rows there are. Where it runs out all the same, the batch
goes on with half of its rows, and says so: samples begin anew from their seeds, with the same end.
Where there is none for one row it waits as long as other batches hold some, and then refuses it.
Of several batches, over other adapters of the same base, each is advanced in its turn: whatever
else was computed since does not matter, and neither does when `advance` is called. On the CPU what
a request gets is bit for bit the same whatever runs beside it, and whenever it joined.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, by_bucket, prompt_bucket, round_up
from visual_r1.engine.compute.decode import Decoding, OpenSequence
from visual_r1.engine.compute.forward import distinct, image_features
from visual_r1.engine.compute.memory import hand_back, is_out_of_memory
from visual_r1.engine.compute.prefill import Prefill, PromptScores, prefill
from visual_r1.engine.compute.prompts import ImageReader
from visual_r1.engine.compute.sample_plan import SamplePlan, plan_request
from visual_r1.engine.compute.sampling import stream
from visual_r1.engine.compute.step import Step
from visual_r1.engine.types import InvalidRequest, SampleOutput, SampleRequest

LOGITS_BYTES = 32
"""Of a row for each token of the vocabulary while one is chosen: logits, probabilities, sums."""

FIRST_ROOM = 256
"""New tokens that a batch has room for at first, a row; it grows as they are sampled."""

STEPS_AT_ONCE = 16
"""Tokens a row in one `advance`: short enough for whoever waits, long enough to be no cost."""

_WAITS = (
    "Memory ran out with one sample at work, and samples with other weights hold some: it waits "
    "until they give it back."
)


@dataclass(frozen=True)
class Answered:
    """A request that is complete."""

    ticket: int
    output: SampleOutput | InvalidRequest
    """`InvalidRequest` where the device has no memory for one row of it."""


@dataclass(frozen=True)
class Progress:
    """What came of one `advance`."""

    answered: tuple[Answered, ...] = ()
    said: tuple[str, ...] = ()
    """Sentences for the log: that memory ran out, and what was done about it."""


@dataclass
class _Open:
    """A request at work, and its samples."""

    ticket: int
    plan: SamplePlan
    sequences: list[OpenSequence]
    bucket: int
    """Places that its prompt is read in, padding included."""
    scores: PromptScores | None = None
    read: bool = False
    """Whether its prompt has been through the model."""

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.read and all(one.stop_reason is not None for one in self.sequences)

    def begin_anew(self) -> None:
        """Forget what is not complete: it comes out the same from its seed."""
        self.read = False
        self.sequences = [
            OpenSequence(self.plan, stream(self.plan.seed, sample))
            if one.stop_reason is None
            else one
            for sample, one in enumerate(self.sequences)
        ]

    def output(self) -> SampleOutput:
        """What the client gets."""
        scores = self.scores
        return SampleOutput(
            sequences=tuple(one.closed() for one in self.sequences),
            prompt_logprobs=scores.logprobs if scores else None,
            topk_prompt_logprobs=scores.topk if scores else None,
            target_logprobs=scores.targets if scores else None,
            prompt_alt_tokens=scores.alternatives if scores else None,
        )


class RunningBatch:
    """See the module. Lives on the worker thread, as all of compute."""

    def __init__(
        self,
        base: BaseModel,
        images: ImageReader,
        bind: Callable[[], Step],
        *,
        check_every: int,
        plannable: Callable[[], int],
        sharers: int = 1,
        others_hold: Callable[["RunningBatch"], bool] | None = None,
    ) -> None:
        """`bind` puts the batch's weights into place, and gives the step that computes with them.

        `check_every`: see `DeviceRules`. `plannable` says how many bytes may be taken now, and
        `others_hold` of a batch whether memory will come back from others; None waits for none.
        `sharers` rows of a prompt hold it once.
        """
        self._base = base
        self._images = images
        self._bind = bind
        self._check_every = check_every
        self._plannable = plannable
        self._others_hold = others_hold
        self._sharers = sharers
        self._at_most = base.rules.rows_at_once
        self.rows_at_most = base.rules.rows_at_once
        """Samples that may decode together from now on, whatever memory has room for."""
        self._tickets = count()
        self._open: dict[int, _Open] = {}
        self._unread: deque[_Open] = deque()
        self._waiting: deque[tuple[Prefill, int, OpenSequence]] = deque()
        """Samples of prompts that were read, which have no row yet."""
        self._decoding: Decoding | None = None
        self._too_little: int | None = None
        """While it waits for others' memory: the plannable bytes that were not enough."""
        self._said_so = False
        """Whether it said that it waits, since it last had memory."""

    @property
    def holds_memory(self) -> bool:
        """Whether it keeps memory that comes back when its samples are complete."""
        return not self.idle and (self._decoding is not None or bool(self._waiting))

    @property
    def stalled(self) -> bool:
        """Whether it waits for memory that others hold; until some is back nothing advances."""
        return self._too_little is not None

    @property
    def rows(self) -> int:
        """Samples at work or admitted; a request without samples counts as one."""
        return sum(
            max(1, sum(one.stop_reason is None for one in request.sequences))
            for request in self._open.values()
        )

    @property
    def free_rows(self) -> int:
        """How many samples more could start now; what is admitted beyond that waits its turn."""
        return max(0, self._limit() - self.rows)

    @property
    def idle(self) -> bool:
        """Whether nothing is at work and nothing waits."""
        return not self._open

    def admit(self, request: SampleRequest) -> int:
        """Take a request in, of any size; returns its ticket.

        Raises `InvalidRequest` when it is wrong by itself, and then nothing has changed.
        """
        plan = plan_request(self._base, self._images, request)
        if self.idle:
            # What there was no memory for may be long gone.
            self._at_most, self._too_little = self._base.rules.rows_at_once, None
        ticket = next(self._tickets)
        sequences = [
            OpenSequence(plan, stream(plan.seed, sample)) for sample in range(request.num_samples)
        ]
        bucket = prompt_bucket(plan.layout.length, self._base.rules.prompt_block)
        self._open[ticket] = opened = _Open(ticket, plan, sequences, bucket)
        self._unread.append(opened)
        return ticket

    def drop(self, ticket: int) -> None:
        """Nobody wants the answers: the request's rows end soon, and it is not answered."""
        opened = self._open.pop(ticket, None)
        if opened is not None:
            opened.plan.request.abandoned.set()

    def advance(self, steps: int = STEPS_AT_ONCE) -> Progress:
        """Read the prompts that joined, take about `steps` tokens a row, and give what is done.

        It ends early with the first that is done, so that its client hears of it at once. Rows
        that end make room for what waits at once, not only with the next call.
        """
        answered: list[Answered] = []
        if self._waits():
            return Progress()
        try:
            with torch.no_grad():
                step = self._bind()
                for _ in range(-(-steps // self._check_every)):
                    if not self._advance_once(step, answered) or answered:
                        break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._said_so = False
            if self.idle:
                # Others may wait for its memory.
                self._decoding = None
            return Progress(tuple(answered))
        # Outside of the handler, where the error holds on to the tensors of its frames.
        return self._with_less(answered)

    def _advance_once(self, step: Step, answered: list[Answered]) -> bool:
        """One look at what was sampled; whether there is more to do."""
        if self._decoding is not None:
            self._decoding.ready()
        if self._fill(step):
            answered += self._complete()
        if self._decoding is None or not self._decoding.alive:
            return False
        if self._decoding.run():
            answered += self._complete()
        return True

    def _with_less(self, answered: list[Answered]) -> Progress:
        """Memory ran out: let all of it go, and begin what is not complete with half the rows."""
        had = self._decoding.alive if self._decoding is not None else 0
        had = max(had, min(self._at_most, self.rows_at_most, self.rows))
        self._decoding = None
        self._waiting.clear()
        hand_back(self._base.device)
        for one in self._open.values():
            one.begin_anew()
        self._unread = deque(self._open.values())
        if had > 1:
            self._at_most = had // 2
            return Progress(
                tuple(answered),
                (
                    f"Memory ran out with {had} samples at work: it goes on with at most "
                    f"{self._at_most} at a time, and gives what it would have given.",
                ),
            )
        if self._others_hold is not None and self._others_hold(self):
            self._too_little = self._plannable()
            said = () if self._said_so else (_WAITS,)
            self._said_so = True
            return Progress(tuple(answered), said)
        one = self._unread.popleft()
        del self._open[one.ticket]
        error = InvalidRequest(
            f"there is no memory on {self._base.device} for one answer of up to "
            f"{one.plan.max_tokens} tokens to a prompt of {one.plan.layout.length}: ask for fewer "
            "tokens, or send a smaller image."
        )
        return Progress((*answered, Answered(one.ticket, error)))

    def _waits(self) -> bool:
        """Whether others still hold memory, and there is no more of it than was too little."""
        if self._too_little is None:
            return False
        if self._others_hold is None or not self._others_hold(self):
            self._at_most = self._base.rules.rows_at_once
        elif self._plannable() <= self._too_little:
            return True
        self._too_little = None
        return False

    def _complete(self) -> list[Answered]:
        done = [one for one in self._open.values() if one.complete]
        for one in done:
            del self._open[one.ticket]
        return [Answered(one.ticket, one.output()) for one in done]

    def _limit(self) -> int:
        """How many rows there may be, all as long as the longest may become, in the memory that is
        free and in what they hold already."""
        places = max(map(self._places, self._open.values()), default=1)
        a_row = self._base.cache_bytes.of(places) + LOGITS_BYTES * self._base.vocabulary_size
        held = self._decoding.held_bytes if self._decoding is not None else 0
        rows = (held + self._plannable()) // a_row
        # Those beyond the first sixteen take memory by sixteens.
        rows -= rows % ROWS if rows > ROWS else 0
        return min(self._at_most, self.rows_at_most, max(1, rows))

    def _places(self, one: _Open) -> int:
        """Places that a row of it may come to; of a prompt that is shared it has its share."""
        block = self._base.rules.cache_block
        samples = len(one.sequences)
        prompt = -(-round_up(one.bucket, block) // max(1, min(samples, self._sharers)))
        if not samples:
            return prompt
        return prompt + round_up(one.plan.max_tokens + self._check_every, block)

    def _fill(self, step: Step) -> bool:
        """Let in what waits, as far as there are rows, and read prompts for those that are left.

        Returns whether anything was read or let in.
        """
        changed = False
        while self._unread or self._waiting:
            free = self._limit() - (self._decoding.alive if self._decoding else 0)
            if free <= 0:
                return changed
            if self._waiting:
                self._join(step, free)
            else:
                self._read(step, free)
            changed = True
        return changed

    def _join(self, step: Step, free: int) -> None:
        """The first samples that wait, of one prefill, take rows."""
        prompts = self._waiting[0][0]
        rows: list[tuple[int, OpenSequence]] = []
        while self._waiting and len(rows) < free and self._waiting[0][0] is prompts:
            _, place, one = self._waiting.popleft()
            if one.plan.request.abandoned.is_set():
                one.stop_reason = "length"
            else:
                rows.append((place, one))
        if not rows:
            return
        if self._decoding is None:
            longest = max(one.plan.max_tokens for _, one in rows)
            self._decoding = Decoding(
                self._base,
                step,
                rows=len(rows),
                places=min(longest, FIRST_ROOM),
                check_every=self._check_every,
            )
        self._decoding.join(rows, prompts)

    def _read(self, step: Step, free: int) -> None:
        """Prompts go through the model: as many as have samples for the rows that are free."""
        joined: list[_Open] = []
        while self._unread and free > 0:
            one = self._unread.popleft()
            if one.ticket in self._open:
                joined.append(one)
                free -= max(1, sum(sample.stop_reason is None for sample in one.sequences))
        base = self._base
        shown = distinct(image for one in joined for image in one.plan.layout.images)
        features = image_features(base, shown)
        for length, indices in by_bucket([one.bucket for one in joined]).items():
            together = [joined[index] for index in indices]
            plans = [one.plan for one in together]
            prompts = prefill(base, plans, features, length, step.read_prompts)
            for place, one in enumerate(together):
                one.scores, one.read = prompts.scores[place], True
                self._waiting += [
                    (prompts, place, sample)
                    for sample in one.sequences
                    if sample.stop_reason is None
                ]
