"""Batches are built ahead of their step, and are what would have been built in it."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tinker
from one_step import Listed

from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.errors import DataError
from visual_r1.models.processor import load_processor
from visual_r1.prompts.prompts import Prompter
from visual_r1.rl.batches import Batches, PromptedProblem

PROBLEMS = [Problem(str(i), (), "?", "1") for i in range(12)]
LIMIT_S = 30


def prompt_of(problem: Problem) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints([int(problem.id)])


def prompted(*places: int) -> list[PromptedProblem]:
    return [PromptedProblem(PROBLEMS[place], prompt_of(PROBLEMS[place])) for place in places]


class Threes:
    """Three problems a step, the next ones in each round."""

    def __init__(self, *, needs_samples: bool = False) -> None:
        self.needs_samples = needs_samples

    def places(self, step: int, round: int) -> Sequence[int]:
        return [(3 * (step + round) + index) % 12 for index in range(3)]

    def observe(self, _: int, __: object) -> None: ...


class Builds:
    """Counts what is built, and by which threads; `begun` is set at problem `at`."""

    def __init__(self, at: str = "") -> None:
        self.built: list[str] = []
        self.threads: set[int] = set()
        self.at, self.begun = at, threading.Event()

    def __call__(self, problem: Problem) -> tinker.ModelInput:
        self.built.append(problem.id)
        self.threads.add(threading.get_ident())
        if problem.id == self.at:
            self.begun.set()
        return prompt_of(problem)


def test_the_next_step_is_built_elsewhere_and_once_while_the_current_one_is_at_work() -> None:
    build = Builds(at="5")
    with Batches(PROBLEMS, Threes(), build, range(2)) as batches:
        assert next(batches.rounds(0)) == prompted(0, 1, 2)
        assert build.begun.wait(LIMIT_S)
        batches.observe(0, [])
        assert next(batches.rounds(1)) == prompted(3, 4, 5)
        batches.observe(1, [])
    assert build.built == ["0", "1", "2", "3", "4", "5"]  # and nothing beyond the last step
    assert threading.get_ident() not in build.threads


def test_the_first_batch_is_begun_before_it_is_asked_for() -> None:
    """While the first sampler is made."""
    build = Builds(at="2")
    with Batches(PROBLEMS, Threes(), build, range(2)):
        assert build.begun.wait(LIMIT_S)


def test_what_depends_on_the_samples_is_begun_when_they_are_there() -> None:
    build = Builds(at="5")
    with Batches(PROBLEMS, Threes(needs_samples=True), build, range(2)) as batches:
        assert next(batches.rounds(0)) == prompted(0, 1, 2)
        assert build.built == ["0", "1", "2"]
        batches.observe(0, [])
        assert build.begun.wait(LIMIT_S)
        assert next(batches.rounds(1)) == prompted(3, 4, 5)


def test_further_rounds_of_a_step_go_on_for_ever() -> None:
    with Batches(PROBLEMS, Threes(), prompt_of, range(1)) as batches:
        rounds = batches.rounds(0)
        assert [next(rounds) for _ in range(5)] == [
            prompted(*(place % 12 for place in range(start, start + 3)))
            for start in range(0, 15, 3)
        ]


def test_a_step_that_nobody_began_is_built_when_it_is_wanted() -> None:
    with Batches(PROBLEMS, Threes(), prompt_of, range(2, 4)) as batches:
        assert next(batches.rounds(3)) == prompted(9, 10, 11)


def test_a_problem_without_a_prompt_comes_with_the_reason() -> None:
    def build(problem: Problem) -> tinker.ModelInput:
        if problem.id == "4":
            raise DataError("problem '4': an image of 0 bytes cannot be decoded")
        return prompt_of(problem)

    with Batches(PROBLEMS, Threes(), build, range(2)) as batches:
        assert next(batches.rounds(0)) == prompted(0, 1, 2)
        batches.observe(0, [])
        faults = [one.fault for one in next(batches.rounds(1))]
        assert faults == ["", "problem '4': an image of 0 bytes cannot be decoded", ""]


def test_a_dataset_that_cannot_be_read_ends_the_step_that_reads_it() -> None:
    class Torn(Sequence[Problem]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: Any) -> Any:
            if index >= 3:
                raise DataError("train-00000-of-00001.parquet cannot be read")
            return PROBLEMS[index]

    with Batches(Torn(), Threes(), prompt_of, range(2)) as batches:
        assert next(batches.rounds(0)) == prompted(0, 1, 2)
        with pytest.raises(DataError, match="cannot be read"):
            next(batches.rounds(1))


def test_it_ends_with_its_thread_though_a_batch_is_under_way() -> None:
    """A batch of a million problems is given up after the one that is being built."""
    build = Builds(at="7")
    before = threading.active_count()
    many = [PROBLEMS[7]] * 1_000_000
    with (
        pytest.raises(RuntimeError, match="the learner failed"),
        Batches(many, Listed(len(many)), build, range(1)) as batches,
    ):
        rounds = batches.rounds(0)
        asking = ThreadPoolExecutor(1)
        waiting = asking.submit(next, rounds)
        assert build.begun.wait(LIMIT_S)
        raise RuntimeError("the learner failed")
    assert len(build.built) < 1_000_000
    assert len(waiting.result(LIMIT_S)) == len(build.built)
    asking.shutdown()
    assert threading.active_count() == before


def test_threads_that_share_a_prompter_build_what_one_builds() -> None:
    processor = load_processor("visual-r1/tiny-geometry")
    prompter = Prompter(processor, "think", 1 << 20)
    problems = list(generate(3, "train", 12))
    alone = [prompter.model_input(problem) for problem in problems]
    texts = [processor.encode(problem.problem) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        built = [pool.submit(prompter.model_input, problem) for problem in problems * 4]
        read = [pool.submit(processor.decode, tokens) for tokens in texts * 4]
        assert [one.result() for one in built] == alone * 4
        assert [one.result() for one in read] == [problem.problem for problem in problems] * 4
