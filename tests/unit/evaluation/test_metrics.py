"""What enters a report, and how it is counted."""

from pathlib import Path

import pytest
from made_up import answer, conditions, predictions, problems, write_evaluation

from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import Spending, measure, read_report, write_report
from visual_r1.evaluation.prediction import Prediction
from visual_r1.evaluation.statistics import wilson
from visual_r1.policy.second_pass import SecondPass
from visual_r1.prices import Prices, Tokens
from visual_r1.rewards.blindfold.masking import MaskedScan
from visual_r1.storage import write_json


def prediction(id: str, family: str = "f", **parts: object) -> Prediction:
    values: dict[str, object] = {"greedy": None, "blind": None, "sampled": (), "failures": {}}
    return Prediction(id=id, family=family, **{**values, **parts})  # type: ignore[arg-type]


def test_a_failed_request_leaves_n_and_a_wrong_answer_does_not():
    report = measure(
        [
            prediction("right", greedy=answer(True)),
            prediction("wrong", greedy=answer(False)),
            prediction("gave up", greedy=answer(False, verdict="gave_up", reason="too deep")),
            prediction("cut off", greedy=answer(False, truncated=True, extracted=None)),
            prediction("failed", failures={"greedy": "the server refused it"}),
        ],
        conditions(),
    )
    assert (report.n, report.correct, report.accuracy) == (4, 1, 0.25)
    assert report.accuracy_ci95 == wilson(1, 4)
    assert (report.gave_up, report.truncated) == (1, 1)
    assert report.failed == {"greedy": 1, "sampled": 0, "blind": 0}


def test_the_sampled_and_the_blind_pass_keep_their_own_counts():
    samples = tuple(answer(right) for right in (True, False, False, False))
    report = measure(
        [
            prediction("a", greedy=answer(True), blind=answer(True), sampled=samples),
            prediction("b", greedy=answer(False), sampled=samples[1:] + samples[2:3]),
            prediction("c", greedy=answer(False), blind=answer(False)),
        ],
        conditions(k=4),
    )
    assert (report.n, report.sampled_n, report.blind_n) == (3, 2, 2)
    assert report.pass_at == {"1": 0.125, "2": 0.25, "4": 0.5}
    assert (report.sampled_accuracy, report.pass_at_k) == (0.125, 0.5)
    assert report.blind_accuracy == 0.5


def test_rates_and_both_roundings_come_from_the_greedy_pass():
    report = measure(
        [
            prediction("a", greedy=answer(True, format_ok=False, tokens=10)),
            prediction("b", greedy=answer(False, right_rounded=True, grounded=False, tokens=30)),
        ],
        conditions(),
    )
    assert (report.accuracy_exact, report.accuracy_rounded) == (0.5, 1.0)
    assert (report.format_rate, report.visual_grounding_rate) == (0.5, 0.5)
    assert report.mean_response_tokens == 20


def test_families_add_up_to_the_whole():
    made = predictions(problems(40), accuracy=0.6, seed=1)
    report = measure(made, conditions())
    assert sorted(report.by_family) == list(report.by_family)
    assert sum(family.n for family in report.by_family.values()) == report.n
    assert sum(family.correct for family in report.by_family.values()) == report.correct


def test_a_report_is_read_as_it_was_written(tmp_path: Path):
    asked = problems(30)
    made = predictions(asked, accuracy=0.6, seed=1)
    write_evaluation(tmp_path, asked, made)
    assert read_report(tmp_path) == measure(made, conditions())


def test_the_json_form_holds_the_names_that_scripts_rely_on():
    flat = measure(predictions(problems(8), 0.5, seed=0), conditions(k=8)).to_json()
    promised = (
        "n accuracy accuracy_ci95 format_rate visual_grounding_rate blind_accuracy "
        "mean_response_tokens seed sampler_path"
    )
    assert set(promised.split()) <= set(flat)
    assert flat["pass_at_8"] == flat["pass_at_k"] == flat["pass_at"]["8"]
    assert "conditions" not in flat


def test_a_switched_off_blind_control_is_none_and_not_zero():
    report = measure([prediction("a", greedy=answer(True))], conditions(blind=False))
    assert report.blind_accuracy is None
    assert report.blind_accuracy_ci95 is None


def test_an_evaluation_in_which_all_failed_is_a_report_that_knows_nothing():
    report = measure([prediction("a", failures={"greedy": "refused"})], conditions())
    assert (report.n, report.accuracy, report.accuracy_ci95) == (0, 0.0, (0.0, 1.0))
    assert report.mean_response_tokens == pytest.approx(0)


def test_descriptions_are_counted_where_there_was_a_second_pass(tmp_path: Path):
    scan = MaskedScan("angle A reads 74.", 0, held_answer=False)
    leaky = MaskedScan("<answer>", 1, held_answer=True, leak="a tag")
    report = measure(
        [
            prediction("both", greedy=answer(True), second=SecondPass("right", "", scan, "a")),
            prediction("image", greedy=answer(True), second=SecondPass("leak", "", leaky)),
            prediction("scan", greedy=answer(False), second=SecondPass("right", "", scan, "a")),
            prediction("neither", greedy=answer(False), second=SecondPass("no_scan", "")),
            prediction("refused", greedy=answer(True), failures={"scan_only": "too long"}),
            prediction("unseen", failures={"greedy": "refused"}, question_only=True),
        ],
        conditions(),
    )
    found = report.second_pass
    assert found is not None
    assert (found.n, found.scan_only_accuracy) == (4, 0.5)
    assert found.scan_only_accuracy_ci95 == wilson(2, 4)
    assert set(found.outcomes.values()) == {0.25}
    assert (found.scans_missing, found.scans_masked, found.scans_with_answer) == (0.25, 0.25, 0.25)
    assert (found.leaks, found.question_only_n, found.question_only_accuracy) == (0.25, 1, 1.0)
    assert report.failed == {"greedy": 1, "sampled": 0, "blind": 0, "scan_only": 1}
    flat = report.to_json()
    assert (flat["scan_only_accuracy"], flat["question_only_accuracy"]) == (0.5, 1.0)
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    assert "scan_only_accuracy" not in measure([prediction("a")], conditions()).to_json()


def test_what_was_spent_stands_in_the_report(tmp_path: Path):
    made = [prediction("a", spent=Tokens(300, 20)), prediction("b", spent=Tokens(200, 30))]
    report = measure(made, conditions(), Prices(1.0, 10.0, 3.0))
    assert report.spending == Spending(500, 50, pytest.approx(0.001), 0)
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    assert measure(made, conditions()).spending == Spending(500, 50, None, 0)
    flat = report.to_json()
    for name in ("tokens_prefill", "tokens_cached", "tokens_sampled", "cost_usd"):
        del flat[name]
    write_json(tmp_path / "report.json", flat)  # as before it was counted
    assert read_report(tmp_path).spending == Spending()


def test_what_a_newer_version_adds_to_a_report_is_kept_out(tmp_path: Path):
    report = measure(predictions(problems(8), 0.5, seed=0), conditions())
    flat = report.to_json() | {"later": {"x": 1}}
    flat["by_family"] = {name: found | {"later": 1} for name, found in flat["by_family"].items()}
    write_json(tmp_path / "report.json", flat)
    assert read_report(tmp_path) == report


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ({"accuracy": ...}, "accuracy: Field required"),
        ({"seed": ...}, "seed: Field required"),
        ({"n": "many"}, "n: Input should be a valid integer"),
        ({"accuracy_ci95": [0.5]}, "accuracy_ci95"),
    ],
)
def test_a_report_that_lacks_something_says_what(
    tmp_path: Path, harm: dict[str, object], reason: str
):
    flat = measure(predictions(problems(4), 0.5, seed=0), conditions()).to_json() | harm
    kept = {name: value for name, value in flat.items() if value is not ...}
    write_json(tmp_path / "report.json", kept)
    with pytest.raises(
        DataError, match=f"complete evaluation .*{reason}.* evaluate again"
    ) as found:
        read_report(tmp_path)
    assert "\n" not in str(found.value)


def test_a_report_from_before_second_passes_can_be_read(tmp_path: Path):
    report = measure([prediction("a", greedy=answer(True))], conditions())
    flat = report.to_json()
    del flat["second_pass"]
    write_json(tmp_path / "report.json", flat)
    assert read_report(tmp_path) == report
