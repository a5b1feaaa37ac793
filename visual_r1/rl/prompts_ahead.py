"""The next step's prompts, built in a thread of their own while the server is at work.

Reading a problem from the dataset, scaling its images, encoding them and counting tokens takes tens
of milliseconds for a large image, on a machine that otherwise waits for the server. At most one
step is built ahead. What is built is what would have been built in its own step, and what goes
wrong with it is raised there.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import Self

import tinker

from visual_r1.data.problem import Problem

Read = Callable[[], Sequence[Problem]]
Build = Callable[[Problem], tinker.ModelInput]


Prompts = Mapping[int, tinker.ModelInput]  # by the identity of their problems


@dataclass(frozen=True, slots=True)
class _Step:
    number: int
    problems: Future[Sequence[Problem]]
    prompts: Future[Prompts]


class PromptsAhead:
    """Prompts of steps, built ahead with `build`. Use it as a context: it ends with its thread.

    At its end a step under way is given up after the prompt that is being built.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts-ahead")
        self._over = Event()
        self._current: _Step | None = None
        self._next: _Step | None = None

    def begin(self, step: int, read: Read) -> None:
        """Begin to build the prompts of `step`, whose problems `read` gives; returns at once."""
        problems = self._thread.submit(read)
        self._next = _Step(step, problems, self._thread.submit(self._all_of, problems))

    def problems(self, step: int, read: Read) -> Sequence[Problem]:
        """The problems of `step`, from now on the current one; raises what `read` raises.

        Where nobody began it, it is begun now.
        """
        if self._next is None or self._next.number != step:
            self.begin(step, read)
        self._current, self._next = self._next, None
        assert self._current is not None
        return self._current.problems.result()

    def prompt(self, problem: Problem) -> tinker.ModelInput:
        """The prompt of a problem: as it is built for the current step, else built now.

        Waits until the whole step is built, and raises what `build` raised at any of its problems.
        """
        built = self._current.prompts.result().get(id(problem)) if self._current else None
        return self._build(problem) if built is None else built

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _all_of(self, problems: Future[Sequence[Problem]]) -> Prompts:
        prompts: dict[int, tinker.ModelInput] = {}
        for problem in problems.result():
            if self._over.is_set():
                break
            prompts[id(problem)] = self._build(problem)
        return prompts
