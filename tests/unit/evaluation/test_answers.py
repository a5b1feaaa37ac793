"""The answers of an evaluation that broke off: what is used of them, and what is asked again."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tinker
from made_up import answer, conditions, problems
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture
from tinker.types import RequestErrorCategory

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import BackendError
from visual_r1.evaluation.answers import (
    ANSWERS_NAME,
    COUNTED_NAME,
    Answer,
    Answers,
    digest_of,
)
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.evaluate import evaluate
from visual_r1.evaluation.metrics import REPORT_NAME, Report, read_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, read_predictions
from visual_r1.policy.policy import open_policy
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prices import Prices, Tokens
from visual_r1.progress import Silent

ASKED = problems(6)
# Of vision_sr1: greedy, blind, other_image, question_only, sampled and scan_only.
CONTROLS = {"controls": ["other_image"], "samples": 2}


class Sampler:
    """Answers as a function of what it is asked, and fails at the `failing`-th request."""

    def __init__(self, config: RunConfig, failing: int | None = None) -> None:
        self._processor = open_policy(config).processor
        self._failing, self.sent = failing, 0

    def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> Any:
        future: Future[tinker.SampleResponse] = Future()
        if self.sent == self._failing:
            failed = tinker.RequestFailedError("out of memory", "1", RequestErrorCategory.Server)
            future.set_exception(failed)
        else:
            seed = sampling_params.seed if sampling_params.temperature else None
            number = hashlib.blake2b(f"{prompt!r}{seed}".encode()).digest()[0] % 9
            text = (
                f"<scan>a circle of {number + 3}</scan><think>so</think><answer>{number}</answer>"
            )
            tokens = self._processor.encode(text)
            answer = tinker.SampledSequence("stop", "1", _tokens_list=tokens)
            future.set_result(tinker.SampleResponse([answer] * num_samples))
        self.sent += 1
        return AwaitableConcurrentFuture(future)


def asked_into(
    folder: Path,
    failing: int | None = None,
    *,
    asked: Sequence[Problem] = ASKED,
    of: str = "here",
    weights: str = "base",
    **evaluation: object,
) -> tuple[Report | None, int]:
    """The report, None where the server failed, and how many requests it took."""
    config = RunConfig.model_validate({"preset": "vision_sr1", "evaluation": CONTROLS | evaluation})
    sampler = Sampler(config, failing)
    policy = open_policy(config, prices=Prices(1.0, 1.0, 1.0))
    conditions = conditions_of(config, weights, "0123abcd")
    try:
        report = evaluate(
            cast("Any", sampler),
            policy,
            asked,
            conditions,
            folder,
            Silent(),
            asked_of=of,
            most_at_once=1,
        )
    except BackendError:
        return None, sampler.sent
    return report, sampler.sent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[dict[str, Any]], int]:
    """An evaluation that nothing disturbed: its report, its rows, its requests."""
    folder = tmp_path_factory.mktemp("whole")
    report, sent = asked_into(folder)
    assert report is not None
    return report, read_predictions(folder), sent


@pytest.mark.parametrize("every", [1, 5, 11])
def test_broken_off_again_and_again_it_ends_as_if_nothing_had_been(
    tmp_path: Path, whole: tuple[Report, list[dict[str, Any]], int], every: int
) -> None:
    requests = attempts = 0
    report = None
    while report is None:
        report, sent = asked_into(tmp_path, failing=every)
        # The one that failed, and one that was under way behind it: neither was answered.
        requests += min(sent, every)
        attempts += 1
    assert attempts > 2
    assert read_predictions(tmp_path) == whole[1]
    # Nothing was asked twice, and all of it is counted.
    assert requests == whole[2]
    assert report == whole[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREDICTIONS_NAME, REPORT_NAME]


def broken_off(folder: Path, after: int) -> list[bytes]:
    """The lines of one that broke off after so many answers."""
    asked_into(folder, failing=after)
    return (folder / ANSWERS_NAME).read_bytes().splitlines(keepends=True)


def damaged(lines: list[bytes], how: str) -> list[bytes]:
    match how:
        case "flipped":
            lines[4] = lines[4].replace(b'"spent"', b'"spant"')
        case "gone":
            del lines[4]
        case "torn":
            lines[-1] = lines[-1][:-30]
        case "of a newer version":
            lines[4] = lines[4].replace(b'{"problem"', b'{"novelty": 1, "problem"')
        case "no text":
            lines[4] = b"\xff\xfe\n"
    return lines


@pytest.mark.parametrize("how", ["flipped", "gone", "torn", "of a newer version", "no text"])
def test_a_row_that_does_not_hold_is_asked_again_and_said(
    tmp_path: Path,
    whole: tuple[Report, list[dict[str, Any]], int],
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    lines = damaged(broken_off(tmp_path, 14), how)
    (tmp_path / ANSWERS_NAME).write_bytes(b"".join(lines))
    report, sent = asked_into(tmp_path)
    assert report is not None
    # The greedy answer that it was of, and its scan, which stands on it; the torn one had no scan.
    assert sent == whole[2] - 14 + (1 if how == "torn" else 2)
    said = "rows missing" if how == "gone" else "1 damaged row(s)"
    assert f"{tmp_path / ANSWERS_NAME} has {said}: what they answered is asked again" in caplog.text
    assert read_predictions(tmp_path) == whole[1]


@pytest.mark.parametrize(
    ("changed", "used"),
    [
        ({"of": "another server"}, 0),
        ({"weights": "tinker://other"}, 0),
        # Of 35: 5 are samples, 6 have another picture, and a third is of the problems left out.
        ({"seed": 5}, 30),
        ({"problems": 4}, 24),
        ({"controls": []}, 29),
    ],
    ids=["server", "weights", "seed", "problems", "controls"],
)
def test_what_was_asked_under_something_else_is_not_used(
    tmp_path: Path, changed: dict[str, Any], used: int, caplog: pytest.LogCaptureFixture
) -> None:
    broken_off(tmp_path, 35)
    report, sent = asked_into(tmp_path, **changed)
    assert report is not None
    other, all_of_it = asked_into(tmp_path / "other", **changed)
    assert other is not None
    assert all_of_it - sent == used
    assert ("asked under something else" in caplog.text) == ("controls" not in changed)
    # They are those of an evaluation that was asked so from the start; and paid is paid.
    assert replace(report, spending=other.spending) == other
    paid, alone = report.spending.tokens_sampled, other.spending.tokens_sampled
    assert paid is not None
    assert alone is not None
    assert paid > alone


def test_a_scan_is_used_with_the_answer_that_it_stood_in_alone(
    tmp_path: Path, whole: tuple[Report, list[dict[str, Any]], int]
) -> None:
    lines = broken_off(tmp_path, whole[2] - 1)
    rows = [json.loads(line) for line in lines]
    scans = [row for row in rows if row["name"] == "scan_only"]
    assert scans
    assert all(row["read"] for row in scans)
    first = scans[0]["problem"]
    # The greedy answer is lost; the server may give another one now.
    kept = [
        line
        for line, row in zip(lines, rows, strict=True)
        if (row["problem"], row["name"]) != (first, "greedy")
    ]
    (tmp_path / ANSWERS_NAME).write_bytes(b"".join(kept))
    report, sent = asked_into(tmp_path)
    assert report is not None
    # The lost one, the one that failed, and the scan of the lost one.
    assert sent == 3
    assert read_predictions(tmp_path) == whole[1]


def test_a_kill_around_the_report_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import visual_r1.evaluation.evaluate as module

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr(module, "write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            asked_into(tmp_path)
    assert (tmp_path / COUNTED_NAME).exists()
    assert not (tmp_path / REPORT_NAME).exists()
    with monkeypatch.context() as after:
        after.setattr(module.Answers, "clear", killed)
        with pytest.raises(KeyboardInterrupt):
            asked_into(tmp_path)
    report = read_report(tmp_path)
    assert (tmp_path / COUNTED_NAME).exists()
    again, sent = asked_into(tmp_path)
    assert (again, sent) == (report, 0)
    assert not (tmp_path / COUNTED_NAME).exists()


def test_other_samples_that_broke_off_leave_the_report_that_was_there(
    tmp_path: Path, whole: tuple[Report, list[dict[str, Any]], int]
) -> None:
    first, _ = asked_into(tmp_path)
    assert asked_into(tmp_path, failing=2, seed=9)[0] is None
    assert read_report(tmp_path) == first == whole[0]
    assert read_predictions(tmp_path) == whole[1]
    report, sent = asked_into(tmp_path, seed=9)
    assert report is not None
    assert sent == len(ASKED) - 2
    other, _ = asked_into(tmp_path / "other", seed=9)
    assert other is not None
    assert replace(report, spending=other.spending) == other


def test_the_second_pass_of_another_answer_is_not_used(tmp_path: Path) -> None:
    """As where the greedy answer was lost, asked again, and came back as another one."""
    answers = Answers(tmp_path, conditions())
    one = answer(right=True, text="<scan>a circle of 7</scan>")
    for read, used in ((digest_of("<scan>a circle of 8</scan>"), False), (None, True)):
        second = SecondPass("right", "", None, "so", 5, 2)
        with answers.written() as keep:
            keep(Answer("p", "f", "greedy", (one,), Tokens(5, 2)))
            read = read or digest_of(one.response)
            keep(Answer("p", "f", "scan_only", (), Tokens(5, 2), second=second, read=read))
        found = answers.find(["p"])
        assert found.predictions()["p"].greedy == one
        assert (found.predictions()["p"].second == second) is used
        assert found.spent == Tokens(10, 4)
        answers.path.unlink()
