"""Before against after, from the files of a run folder."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from made_up import (
    answer,
    predictions,
    problems,
    spend,
    write_evaluation,
    write_metrics,
    write_validation,
)
from rich.cells import cell_len

from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.prediction import Prediction
from visual_r1.printing import Terminal
from visual_r1.report.summary import read_summary, summarize
from visual_r1.report.terminal import print_samples, print_summary
from visual_r1.runs.costs import cost_of_run
from visual_r1.runs.validations import Validations


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that went from 60 % to 85 %."""
    folder = tmp_path / "runs" / "quickstart-0a1b2c3d"
    asked = problems(200)
    write_evaluation(folder / "evaluations/baseline", asked, predictions(asked, 0.6, seed=0))
    write_evaluation(folder / "evaluations/final", asked, predictions(asked, 0.85, seed=0))
    write_metrics(folder, steps=12)
    return folder


def test_the_summary_file_holds_the_names_that_scripts_rely_on(run_dir: Path):
    summarize(run_dir, steps=12, wall_seconds=61.25)
    written = json.loads((run_dir / "summary.json").read_text())
    before = read_report(run_dir / "evaluations/baseline")
    after = read_report(run_dir / "evaluations/final")
    assert written["baseline"] == before.accuracy
    assert written["final"] == after.accuracy
    assert written["delta"] == pytest.approx(after.accuracy - before.accuracy)
    assert written["delta_ci95"][0] < written["delta"] < written["delta_ci95"][1]
    assert written["p_value"] < 1e-6
    assert (written["steps"], written["updated_steps"], written["wall_seconds"]) == (12, 12, 61.25)
    assert written["gained"] - written["lost"] == round(written["delta"] * 200)
    assert written["pass_at_k"]["n"] == written["blind"]["n"] == 200


def test_the_summary_is_read_as_it_was_written(run_dir: Path):
    assert read_summary(run_dir) is None
    summary = summarize(run_dir, steps=12, wall_seconds=61.25)
    assert read_summary(run_dir) == summary
    path = run_dir / "summary.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"delta": written["delta"] / 2}))
    with pytest.raises(DataError, match=r"summary\.json is damaged \(its checksum is"):
        read_summary(run_dir)
    del written["checksum"]  # of a version that had none
    newer = written | {"later": 1}
    path.write_text(json.dumps(newer))
    assert read_summary(run_dir) == summary
    older = {name: newer[name] for name in newer if name not in ("scan_only", "cost_usd")}
    path.write_text(json.dumps(older))
    assert read_summary(run_dir) == summary
    del older["gained"]
    path.write_text(json.dumps(older))
    with pytest.raises(DataError, match=r"summary\.json is damaged \(accuracy\.gained: Field"):
        read_summary(run_dir)


@pytest.mark.parametrize("name", ["rates", "accuracy", "n"])
def test_a_damaged_summary_is_made_again_and_said(
    run_dir: Path, caplog: pytest.LogCaptureFixture, name: str
):
    """Also one of an older version, in which a key changed."""
    right = summarize(run_dir, steps=12, wall_seconds=61.25)
    path = run_dir / "summary.json"
    written = json.loads(path.read_text())
    del written["checksum"]
    damaged = json.dumps(written).replace('"format_rate"', '"format_rat{"')
    if name == "n":
        damaged = damaged.replace('"n":', '"N":', 1)
    path.write_text(damaged if name != "accuracy" else damaged[:-9])
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        read_summary(run_dir)
    assert summarize(run_dir, steps=12, wall_seconds=61.25) == right == read_summary(run_dir)
    assert "it is made again" in caplog.text
    assert len(list(run_dir.glob(".summary.json.damaged-1"))) == 1


def test_the_cost_is_that_of_all_steps_and_evaluations(run_dir: Path):
    def cost() -> tuple[float | None, str]:
        out = StringIO()
        summary = summarize(run_dir, steps=12, wall_seconds=61)
        console = Terminal(file=out, width=200)
        print_summary(summary, cost_of_run(run_dir), run_dir / "report.html", console)
        written = json.loads((run_dir / "summary.json").read_text())
        return written["cost_usd"], out.getvalue()

    # A run of an earlier version, or without prices, says nothing of it.
    usd, shown = cost()
    assert usd is None
    assert "Wall time 1 min 1 s. Report" in shown
    spend(run_dir, [0.125] * 11, baseline=1.0, final=2.0)
    usd, shown = cost()
    assert usd == pytest.approx(4.375)
    assert "Wall time 1 min 1 s, cost at least $4.38. Report" in shown  # one step has none
    spend(run_dir, [0.125] * 12)
    usd, shown = cost()
    assert usd == pytest.approx(4.5)
    assert "cost about $4.50" in shown
    write_validation(run_dir, 4, accuracy=0.5)
    assert "cost at least $4.50" in cost()[1]
    validations = Validations(run_dir)
    validations.record(replace(validations.rows()[0], cost_usd=0.25))
    assert cost()[0] == pytest.approx(4.75)
    assert "cost about $4.75" in cost()[1]


def test_the_conclusion_says_which_way_it_went(run_dir: Path):
    rose = summarize(run_dir, steps=12, wall_seconds=1).conclusion
    assert rose.startswith("Accuracy rose by ")
    before, after = run_dir / "evaluations/baseline", run_dir / "evaluations/final"
    before.rename(run_dir / "kept")
    after.rename(before)
    (run_dir / "kept").rename(after)
    fell = summarize(run_dir, steps=12, wall_seconds=1).conclusion
    assert fell.startswith("Accuracy fell by ")


def test_a_run_that_was_begun_under_another_grader_ends_and_says_so(run_dir: Path):
    assert "grader" not in summarize(run_dir, steps=12, wall_seconds=1).conclusion
    asked = problems(200)
    made = predictions(asked, 0.85, seed=0)
    write_evaluation(run_dir / "evaluations/final", asked, made, grader_version="2")
    said = summarize(run_dir, steps=12, wall_seconds=1).conclusion
    assert said.startswith("Accuracy rose by ")
    assert (
        "baseline was graded by version 1 of the grader and the final answers by version 2" in said
    )


def test_a_difference_that_is_not_seen_is_said_in_plain_words(run_dir: Path):
    asked = problems(200)
    write_evaluation(run_dir / "evaluations/final", asked, predictions(asked, 0.62, seed=0))
    summary = summarize(run_dir, steps=12, wall_seconds=1)
    assert summary.accuracy.p_value >= 0.05
    assert summary.conclusion.startswith("Not distinguishable: accuracy went from ")
    assert "points shows in four of five evaluations" in summary.conclusion


def test_a_run_without_an_update_says_that_nothing_was_trained(run_dir: Path):
    write_metrics(run_dir, steps=4, updated=False)
    assert "Nothing was trained" in summarize(run_dir, steps=4, wall_seconds=1).conclusion


def test_a_problem_that_failed_in_one_evaluation_is_in_no_pair(run_dir: Path):
    asked = problems(200)
    made = predictions(asked, 0.85, seed=0)
    made[0] = replace(made[0], greedy=None, failures={"greedy": "refused"})
    made[1] = Prediction(asked[1].id, asked[1].family, answer(True), None, (), {})
    write_evaluation(run_dir / "evaluations/final", asked, made)
    summary = summarize(run_dir, steps=12, wall_seconds=1)
    assert summary.accuracy.n == 199
    assert summary.pass_at_k is not None and summary.pass_at_k.n == 199
    assert summary.blind is not None and summary.blind.n == 199


def test_families_are_compared_one_by_one(run_dir: Path):
    summary = summarize(run_dir, steps=12, wall_seconds=1)
    assert sum(found.n for found in summary.by_family.values()) == 200
    gained = sum(found.gained for found in summary.by_family.values())
    assert gained == summary.accuracy.gained


def test_evaluations_under_different_conditions_are_refused_by_name(run_dir: Path):
    asked = problems(200)
    made = predictions(asked, 0.85, seed=0)
    write_evaluation(run_dir / "evaluations/final", asked, made, rounding="rounded")
    with pytest.raises(DataError, match=r"differ in rounding \('exact' and 'rounded'\)"):
        summarize(run_dir, steps=12, wall_seconds=1)


@pytest.mark.parametrize("content", [None, "{", '{"n": 3}'])
def test_an_incomplete_evaluation_is_one_sentence(run_dir: Path, content: str | None):
    report = run_dir / "evaluations/final/report.json"
    if content is None:
        report.unlink()
    else:
        report.write_text(content)
    with pytest.raises(DataError, match="not the report of a complete evaluation"):
        summarize(run_dir, steps=12, wall_seconds=1)


def test_the_terminal_table_shows_what_a_newcomer_looks_for(run_dir: Path):
    out = StringIO()
    summary = summarize(run_dir, steps=12, wall_seconds=412)
    console = Terminal(file=out, width=80)
    print_summary(summary, None, run_dir / "report.html", console)
    shown = out.getvalue()
    for expected in ("accuracy", "pass@8", "image blanked", "6 min 52 s", "report.html", "p < 0."):
        assert expected in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("width", [40, 100])
def test_a_right_and_a_wrong_answer_within_the_terminals_width(run_dir: Path, width: int):
    asked = problems(20)
    asked = [
        replace(one, problem=f"<image>角度是多少？{'多' * 60}\x1b[2J", answer="[bold]7")
        for one in asked
    ]
    long = "[bold]\u202e" * 9000
    made = [
        replace(one, greedy=replace(one.greedy, response=long + one.greedy.response))
        for one in predictions(asked, 0.5, seed=0)
        if one.greedy is not None
    ]
    write_evaluation(run_dir / "evaluations/final", asked, made)
    out = StringIO()
    print_samples(run_dir, Terminal(file=out, width=width))
    shown = out.getvalue()
    lines = shown.splitlines()
    assert [line.split(" ")[0] for line in lines if not line.startswith(" ")] == ["right", "wrong"]
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= 14
    assert shown.count("gold ") == 2
    assert "</answer>" in shown
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "gold [bold]7," in shown
    # Where they cannot be read, what comes next says so.
    (run_dir / "evaluations/final/predictions.parquet").write_bytes(b"x")
    print_samples(run_dir, Terminal(file=StringIO()))
