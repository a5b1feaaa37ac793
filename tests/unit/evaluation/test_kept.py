"""What an evaluation that is there spares another one, and what it does not."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tinker
from made_up import problems
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture

from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.evaluation.conditions import conditions_of
from visual_r1.evaluation.evaluate import evaluate
from visual_r1.evaluation.metrics import Report, read_report, write_report
from visual_r1.evaluation.predictions import PREDICTIONS_NAME, read_predictions
from visual_r1.policy.policy import open_policy
from visual_r1.prices import Prices
from visual_r1.progress import Silent
from visual_r1.tables import read_table, write_table

ASKED = problems(6)
PAID = Prices(1.0, 1.0, 1.0)


class Sampler:
    """Answers at once, and counts what it was asked: (temperature, samples) of each request."""

    def __init__(self, config: RunConfig) -> None:
        self.sent: list[tuple[float, int]] = []
        processor = open_policy(config).processor
        text = "<think>so</think><scan>a circle of 7</scan><answer>{}</answer>"
        self._tokens = [processor.encode(text.format(number)) for number in range(1, 7)]

    def sample(self, _: Any, num_samples: int, sampling_params: tinker.SamplingParams) -> Any:
        at = len(self.sent) % len(self._tokens)  # others each time: what is kept can be told
        self.sent.append((sampling_params.temperature, num_samples))
        answer = tinker.SampledSequence("stop", "1", _tokens_list=self._tokens[at])
        future: Future[tinker.SampleResponse] = Future()
        future.set_result(tinker.SampleResponse([answer] * num_samples))
        return AwaitableConcurrentFuture(future)


class Evaluating:
    """Evaluations of one sampler, each told what the one before did not know."""

    def __init__(self, preset: str = "quickstart") -> None:
        self.preset = preset
        self.sampler = Sampler(RunConfig(preset=preset))

    def into(
        self,
        folder: Path,
        asked: Sequence[Problem] = ASKED,
        earlier: Sequence[Path] = (),
        weights: str = "base",
        **evaluation: object,
    ) -> tuple[Report, list[tuple[float, int]]]:
        """The report, and the requests that it took."""
        config = RunConfig.model_validate({"preset": self.preset, "evaluation": evaluation})
        self.sampler.sent.clear()
        report = evaluate(
            cast("Any", self.sampler),
            open_policy(config, prices=PAID),
            asked,
            conditions_of(config, weights, "0123abcd"),
            folder,
            Silent(),
            earlier=earlier,
        )
        assert read_report(folder) == report
        return report, list(self.sampler.sent)


GREEDY, SAMPLED = (0.0, 1), (1.0, 4)


def test_other_samples_are_asked_for_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluating = Evaluating()
    before, sent = evaluating.into(tmp_path, samples=4)
    assert sorted(sent) == sorted([GREEDY] * 12 + [SAMPLED] * 6)
    rows = read_predictions(tmp_path)
    after, sent = evaluating.into(tmp_path, samples=2)
    assert sent == [(1.0, 2)] * 6
    now = read_predictions(tmp_path)
    for column in ("response", "verdict", "reason", "blind_response", "blind_correct", "grounded"):
        assert [row[column] for row in now] == [row[column] for row in rows]
    assert [row["k"] for row in now] == [2] * 6
    assert replace(after, k=4).accuracy == before.accuracy
    assert after.mean_response_tokens == before.mean_response_tokens
    assert after.spending.cost_usd is not None
    assert before.spending.cost_usd is not None
    assert after.spending.cost_usd > before.spending.cost_usd  # both were paid
    assert "evaluation.samples is 2 and was 4; 6 sampled answers are asked for" in caplog.text
    assert "6 greedy, 6 blind are kept" in caplog.text


def test_another_seed_is_of_the_samples_alone(tmp_path: Path) -> None:
    evaluating = Evaluating()
    evaluating.into(tmp_path, samples=4)
    assert evaluating.into(tmp_path, samples=4, seed=7)[1] == [SAMPLED] * 6


def test_without_the_blind_control_nothing_is_asked_and_with_it_that_alone(tmp_path: Path) -> None:
    evaluating = Evaluating()
    evaluating.into(tmp_path, samples=4, blind=False)
    report, sent = evaluating.into(tmp_path, samples=4)
    assert sent == [GREEDY] * 6
    assert report.blind_n == 6
    report, sent = evaluating.into(tmp_path, samples=4, blind=False)
    assert sent == []
    assert report.blind_accuracy is None
    assert {row["blind_correct"] for row in read_predictions(tmp_path)} == {None}


def test_more_problems_are_asked_about_and_fewer_cost_nothing(tmp_path: Path) -> None:
    evaluating = Evaluating()
    evaluating.into(tmp_path, samples=4, problems=4)
    rows = read_predictions(tmp_path)
    report, sent = evaluating.into(tmp_path, samples=4)
    assert sorted(sent) == sorted([GREEDY] * 4 + [SAMPLED] * 2)
    assert report.n == 6
    assert read_predictions(tmp_path)[:4] == rows
    report, sent = evaluating.into(tmp_path, samples=4, problems=2)
    assert (report.n, sent) == (2, [])


@pytest.mark.parametrize("other", ["weights", "damaged", "gone"])
def test_nothing_is_kept_of_other_weights_or_of_what_is_damaged(tmp_path: Path, other: str) -> None:
    evaluating = Evaluating()
    evaluating.into(tmp_path, samples=4)
    predictions = tmp_path / PREDICTIONS_NAME
    match other:
        case "damaged":
            predictions.write_bytes(predictions.read_bytes()[:-1] + b"x")
        case "gone":
            predictions.unlink()
        case _:
            pass
    _, sent = evaluating.into(
        tmp_path, samples=2, weights="other" if other == "weights" else "base"
    )
    assert sorted(sent) == sorted([GREEDY] * 12 + [(1.0, 2)] * 6)


def test_each_part_is_taken_from_whichever_folder_has_it(tmp_path: Path) -> None:
    evaluating = Evaluating()
    evaluating.into(tmp_path / "half", samples=4, problems=3)
    evaluating.into(tmp_path / "seen", samples=2, blind=False)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "report.json").write_text("{")
    places = [tmp_path / name for name in ("torn", "half", "seen")]
    report, sent = evaluating.into(tmp_path / "new", samples=4, earlier=places)
    assert sorted(sent) == sorted([GREEDY] * 3 + [SAMPLED] * 3)  # blind of three, samples of three
    assert report.taken_from == "half, seen"
    half, seen, new = (read_predictions(tmp_path / name) for name in ("half", "seen", "new"))
    assert new[:3] == half
    assert [row["response"] for row in new[3:]] == [row["response"] for row in seen[3:]]
    assert report.spending.cost_usd is not None
    whole = evaluating.into(tmp_path / "paid", samples=4)[0].spending.cost_usd
    assert whole is not None
    assert 0 < report.spending.cost_usd < whole  # what others paid is theirs


def test_the_second_pass_is_kept_with_the_answer_whose_scan_it_read(tmp_path: Path) -> None:
    evaluating = Evaluating("vision_sr1")
    before, sent = evaluating.into(tmp_path, samples=4)
    assert sent.count(GREEDY) == 6 * 4  # greedy, blind, question_only, scan_only
    rows = read_predictions(tmp_path)
    after, sent = evaluating.into(tmp_path, samples=2)
    assert sent == [(1.0, 2)] * 6
    assert after.second_pass == before.second_pass
    again = read_predictions(tmp_path)
    for column in ("outcome", "scan_read", "second_verdict", "scan_masked", "scan_held_answer"):
        assert [row[column] for row in again] == [row[column] for row in rows]


def test_of_a_file_of_an_older_version_all_but_the_second_pass_is_kept(tmp_path: Path) -> None:
    """It does not say what was masked in a scan, which the report counts."""
    evaluating = Evaluating("vision_sr1")
    before, _ = evaluating.into(tmp_path, samples=4)
    path = tmp_path / PREDICTIONS_NAME
    write_table(path, read_table(path).drop_columns(["scan_masked", "scan_held_answer"]))
    write_report(tmp_path, before)
    after, sent = evaluating.into(tmp_path, samples=4)
    assert sent == [GREEDY] * 6
    assert after.second_pass is not None
    assert before.second_pass is not None
    assert after.second_pass.scans_masked == before.second_pass.scans_masked


def test_another_gold_answer_is_asked_about_and_nothing_else(tmp_path: Path) -> None:
    """What a person decided about one label costs that problem's answers alone."""
    evaluating = Evaluating()
    evaluating.into(tmp_path, samples=4)
    changed = [replace(ASKED[0], answer="-1"), *ASKED[1:]]
    report, sent = evaluating.into(tmp_path, changed, samples=4)
    assert sorted(sent) == sorted([GREEDY] * 2 + [SAMPLED])
    assert report.n == 6
    rows = read_predictions(tmp_path)
    assert rows[0]["answer"] == "-1" and not rows[0]["correct"]
    _, sent = evaluating.into(tmp_path, changed[1:], samples=4)
    assert sent == [], "one that is dropped leaves the others as they are"
