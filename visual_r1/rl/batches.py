"""The batches of a chunk's steps: which problems, and their prompts, built ahead of their step.

Reading a problem from the dataset, scaling its images, encoding them and counting tokens takes tens
of milliseconds for a large image, on a machine that otherwise waits for the server. So the next
step's first batch is built in a thread of its own as soon as it is known which problems it has: at
once where the order is a function of the numbers alone, else when the step before it has been
sampled. Where samples may be stale (`algorithm.max_staleness`) the problems of a step are drawn
when the weights that sample them are there, by what was sampled before those. What is built is what
would have been built in its own step. Where no prompt can be made of a problem, it comes with the
reason; whatever else goes wrong is raised in that step.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import NamedTuple, Protocol, Self

import tinker

from visual_r1.config import TrainSection
from visual_r1.data.batches import batch_indices
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.policy.policy import RolloutGroup
from visual_r1.rl.curriculum import ExpectedBatch


class PromptedProblem(NamedTuple):
    """A problem, and the prompt of its first pass; where none can be made, an empty one and why."""

    problem: Problem
    prompt: tinker.ModelInput
    fault: str = ""


class ProblemOrder(Protocol):
    """Which problems each step gets; asked step by step, each step observed once."""

    @property
    def needs_samples(self) -> bool:
        """Whether a step's problems are known only when the step before it has been sampled."""
        ...

    def places(self, step: int, round: int, /) -> Sequence[int]:
        """The numbers of the problems, in the training split, of a round of `step`."""
        ...

    def observe(self, step: int, groups: Sequence[RolloutGroup], /) -> ExpectedBatch | None:
        """Take in what `step` sampled, all its rounds; what was expected of it, for the metrics."""
        ...


class EpochOrder:
    """Whole epochs over `problems` problems, see `data.batches`; there is no state."""

    needs_samples = False

    def __init__(self, train: TrainSection, problems: int) -> None:
        self._train, self._problems = train, problems

    def places(self, step: int, round: int) -> Sequence[int]:
        """A function of (train.seed, step, round)."""
        train = self._train
        return batch_indices(self._problems, train.batch_size, train.seed, step, round)

    def observe(self, _: int, __: Sequence[RolloutGroup]) -> ExpectedBatch | None:
        """Nothing is learnt from it."""


class Batches:
    """The batches of `steps`. Use it as a context: it ends with its thread.

    At its end a batch under way is given up after the prompt that is being built.

    Args:
        problems: the training split.
        order: which of them each step gets.
        build: makes the prompt of a problem; raises `DataError` where none can be made: it is
            handed on with the problem.
        steps: nothing is built ahead of the last one.
        staleness: `algorithm.max_staleness`: so many steps more than one are sampled at a time.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        order: ProblemOrder,
        build: Callable[[Problem], tinker.ModelInput],
        steps: range,
        staleness: int = 0,
    ) -> None:
        self._problems, self._order, self._build, self._steps = problems, order, build, steps
        self._staleness = staleness
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts-ahead")
        self._over = threading.Event()
        self._ahead: dict[int, Future[list[PromptedProblem]]] = {}
        self._begun = steps.start - 1

    def rounds(self, step: int) -> Iterator[Sequence[PromptedProblem]]:
        """The batch of `step`, then further ones for dynamic sampling, without an end.

        Raises what reading a problem raises.
        """
        self._begin(step)
        first = self._ahead.pop(step)
        if not self._order.needs_samples:
            self._begin(step + 1)
        yield first.result()
        for round in count(1):
            yield self._built(self._order.places(step, round))

    def observe(self, step: int, groups: Sequence[RolloutGroup]) -> ExpectedBatch | None:
        """All of `step` is sampled; what was expected of it. The problems of the next batch that is
        sampled are known now at the latest, and its prompts are begun."""
        expected = self._order.observe(step, groups)
        self._begin(step + 1 + self._staleness)
        return expected

    def __enter__(self) -> Self:
        self._begin(self._steps.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int) -> None:
        if step not in self._steps or step <= self._begun:
            return
        self._begun = step
        # Drawn here and now: in the thread it could come after more has been observed.
        places = self._order.places(step, 0)
        self._ahead[step] = self._thread.submit(self._built, places)

    def _built(self, places: Sequence[int]) -> list[PromptedProblem]:
        batch: list[PromptedProblem] = []
        for place in places:
            if self._over.is_set():
                break
            problem = self._problems[place]
            try:
                batch.append(PromptedProblem(problem, self._build(problem)))
            except DataError as error:  # the row's own: it is left out and counted
                batch.append(PromptedProblem(problem, tinker.ModelInput.empty(), str(error)))
        return batch
