import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import tinker

from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.errors import DataError
from visual_r1.models.processor import load_processor
from visual_r1.prompts import Prompter
from visual_r1.runs.problem_draws import PromptsAhead

PROBLEMS = [Problem(str(i), (), "?", "1") for i in range(6)]
LIMIT_S = 30


def prompt_of(problem: Problem) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints([int(problem.id)])


class Builds:
    """Counts what is built, and by which threads."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, problem: Problem) -> tinker.ModelInput:
        self.built.append(problem.id)
        self.threads.add(threading.get_ident())
        return prompt_of(problem)


def test_a_step_that_was_begun_is_built_elsewhere_and_once() -> None:
    build = Builds()
    with PromptsAhead(build) as ahead:
        ahead.begin(4, lambda: PROBLEMS[:3])
        problems = ahead.problems(4, lambda: pytest.fail("it was read already"))
        assert problems == PROBLEMS[:3]
        assert [ahead.prompt(problem) for problem in problems] == list(map(prompt_of, problems))
        assert build.built == ["0", "1", "2"]
        assert threading.get_ident() not in build.threads
        # A further round is not built ahead, nor is a problem that only looks the same.
        assert ahead.prompt(PROBLEMS[5]) == prompt_of(PROBLEMS[5])
        assert ahead.prompt(replace(PROBLEMS[0])) == prompt_of(PROBLEMS[0])
        assert build.built == ["0", "1", "2", "5", "0"]


def test_the_next_step_is_built_while_the_current_one_is_at_work() -> None:
    begun, proceed = threading.Event(), threading.Event()

    def build(problem: Problem) -> tinker.ModelInput:
        if problem.id == "3":
            begun.set()
            assert proceed.wait(LIMIT_S)
        return prompt_of(problem)

    with PromptsAhead(build) as ahead:
        current = ahead.problems(0, lambda: PROBLEMS[:3])
        ahead.begin(1, lambda: PROBLEMS[3:])
        assert begun.wait(LIMIT_S)
        assert ahead.prompt(current[0]) == prompt_of(current[0])
        proceed.set()
        following = ahead.problems(1, lambda: PROBLEMS[3:])
        assert [ahead.prompt(problem) for problem in following] == list(map(prompt_of, following))


def test_what_was_not_begun_is_read_when_it_is_wanted() -> None:
    with PromptsAhead(prompt_of) as ahead:
        ahead.begin(1, lambda: PROBLEMS[:1])
        assert ahead.problems(2, lambda: PROBLEMS[1:]) == PROBLEMS[1:]


def test_an_error_is_raised_in_the_step_that_it_belongs_to() -> None:
    def build(problem: Problem) -> tinker.ModelInput:
        if problem.id == "4":
            raise DataError("problem '4': an image of 0 bytes cannot be decoded")
        return prompt_of(problem)

    with PromptsAhead(build) as ahead:
        current = ahead.problems(0, lambda: PROBLEMS[:3])
        ahead.begin(1, lambda: PROBLEMS[3:])
        assert ahead.prompt(current[2]) == prompt_of(current[2])
        following = ahead.problems(1, lambda: PROBLEMS[3:])
        for problem in following:  # as without: none of the step is asked for
            with pytest.raises(DataError, match="problem '4'"):
                ahead.prompt(problem)


def test_a_dataset_that_cannot_be_read_ends_the_step_that_reads_it() -> None:
    def read() -> list[Problem]:
        raise DataError("train-00000-of-00001.parquet cannot be read")

    with PromptsAhead(prompt_of) as ahead:
        ahead.problems(0, lambda: PROBLEMS[:3])
        ahead.begin(1, read)
        assert ahead.prompt(PROBLEMS[0]) == prompt_of(PROBLEMS[0])
        with pytest.raises(DataError, match="cannot be read"):
            ahead.problems(1, lambda: PROBLEMS[3:])


class Endless(Sequence[Problem]):
    """More problems than anybody waits for: `exhausted` where nobody told the thread to stop."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.exhausted = False

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        return PROBLEMS[0]

    def __iter__(self) -> Iterator[Problem]:
        for _ in range(1_000_000):
            self.begun.set()
            yield PROBLEMS[0]
        self.exhausted = True


def test_it_ends_with_its_thread_though_a_step_is_under_way() -> None:
    endless = Endless()
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the learner failed"), PromptsAhead(prompt_of) as ahead:
        ahead.begin(1, lambda: endless)
        assert endless.begun.wait(LIMIT_S)
        raise RuntimeError("the learner failed")
    assert threading.active_count() == before
    assert not endless.exhausted


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
