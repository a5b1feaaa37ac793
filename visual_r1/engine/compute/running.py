"""What decodes now with one set of weights: requests join while others run, and leave when done.

    batch = compute.open_batch(weights)
    while there is work:
        while batch.free_rows > 0 and a request waits:
            ticket = batch.admit(request)        # raises InvalidRequest, and nothing has changed
        progress = batch.advance()
        progress.answered, progress.said

`advance` takes some steps for all rows and gives back, by ticket, each request that is complete. Of
several batches, over other adapters of the same base, each is advanced in its turn: whatever else
was computed since does not matter, and neither does when `advance` is called. On the CPU what a
request gets is bit for bit the same whatever runs beside it, and whenever it joined.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import torch

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import by_bucket, chunks, prompt_bucket
from visual_r1.engine.compute.decode import Decoding, OpenSequence, row_limit
from visual_r1.engine.compute.forward import distinct, image_features
from visual_r1.engine.compute.prefill import Prefill, PromptScores, prefill
from visual_r1.engine.compute.prompts import ImageReader
from visual_r1.engine.compute.sample_plan import SamplePlan, plan_request
from visual_r1.engine.compute.sampling import stream
from visual_r1.engine.types import SampleOutput, SampleRequest

STEPS_AT_ONCE = 16
"""Tokens a row in one `advance`: short enough for whoever waits, long enough to be no cost."""


@dataclass(frozen=True)
class Answered:
    """A request that is complete."""

    ticket: int
    output: SampleOutput


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
    scores: PromptScores | None = None
    read: bool = False
    """Whether its prompt has been through the model."""

    @property
    def complete(self) -> bool:
        return self.read and all(one.stop_reason is not None for one in self.sequences)

    def output(self) -> SampleOutput:
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

    def __init__(self, base: BaseModel, images: ImageReader, bind: Callable[[], None]) -> None:
        """`bind` puts the batch's weights into the network."""
        self._base = base
        self._images = images
        self._bind = bind
        self._tickets = count()
        self._open: dict[int, _Open] = {}
        self._unread: deque[_Open] = deque()
        self._decoding: list[Decoding] = []

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
        longest = max(
            (one.plan.layout.length + one.plan.max_tokens for one in self._open.values()), default=1
        )
        return max(0, row_limit(self._base, longest) - self.rows)

    @property
    def idle(self) -> bool:
        """Whether nothing is at work and nothing waits."""
        return not self._open

    def admit(self, request: SampleRequest) -> int:
        """Take a request in, of any size; returns its ticket.

        Raises `InvalidRequest` when it is wrong by itself, and then nothing has changed.
        """
        plan = plan_request(self._base, self._images, request)
        ticket = next(self._tickets)
        sequences = [
            OpenSequence(plan, stream(plan.seed, sample)) for sample in range(request.num_samples)
        ]
        self._open[ticket] = opened = _Open(ticket, plan, sequences)
        self._unread.append(opened)
        return ticket

    def drop(self, ticket: int) -> None:
        """Nobody wants the answers: the request's rows end with their next token, unanswered."""
        opened = self._open.pop(ticket, None)
        if opened is not None:
            opened.plan.request.abandoned.set()

    def advance(self, steps: int = STEPS_AT_ONCE) -> Progress:
        """Read the prompts that joined, take up to `steps` tokens a row, and give what is done."""
        with torch.no_grad():
            self._bind()
            self._read_prompts()
            for decoding in self._decoding:
                decoding.run(steps)
        self._decoding = [one for one in self._decoding if not one.finished]
        answered = tuple(
            Answered(opened.ticket, opened.output())
            for opened in self._open.values()
            if opened.complete
        )
        for one in answered:
            del self._open[one.ticket]
        return Progress(answered)

    def _read_prompts(self) -> None:
        joined = [one for one in self._unread if one.ticket in self._open]
        self._unread.clear()
        if not joined:
            return
        base = self._base
        features = image_features(
            base, distinct(i for one in joined for i in one.plan.layout.images)
        )
        buckets = [prompt_bucket(one.plan.layout.length) for one in joined]
        for length, indices in by_bucket(buckets).items():
            together = [joined[index] for index in indices]
            prompts = prefill(base, [one.plan for one in together], features, length)
            rows: list[tuple[int, OpenSequence]] = []
            for place, one in enumerate(together):
                one.scores, one.read = prompts.scores[place], True
                rows += [(place, sequence) for sequence in one.sequences]
            self._start(rows, prompts, length)

    def _start(
        self, rows: Sequence[tuple[int, OpenSequence]], prompts: Prefill, length: int
    ) -> None:
        longest = max((one.plan.max_tokens for _, one in rows), default=0)
        for together in chunks(rows, row_limit(self._base, length + longest)):
            self._decoding.append(Decoding(self._base, together, prompts))
