"""What a sweep says of its runs: made-up run folders, real files."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import (
    predictions,
    problems,
    write_evaluation,
    write_metrics,
    write_validation,
)

from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.report.summary import read_summary, summarize
from visual_r1.runs.budget import BudgetEnd, note_budget_end
from visual_r1.storage import read_sealed, write_json
from visual_r1.sweeps.comparison import Comparison, compare_settings
from visual_r1.sweeps.folder import open_sweep_folder
from visual_r1.sweeps.halving import count_after, go_on, rungs, steps_of, work_left
from visual_r1.sweeps.members import baseline_key, is_trained
from visual_r1.sweeps.plan import Member, Plan, make_plan
from visual_r1.sweeps.report import write_report
from visual_r1.sweeps.sweep import Sweep
from visual_r1.sweeps.table import markdown
from visual_r1.verify.examination import examine

ASKED = problems(120)
RATE = "train.learning_rate"
STEPS = 8
WHOLE = [1e-3, 1e-4, 1e-2]


def plan_of(
    folder: Path, rates: list[float], base: Mapping[str, Any] | None = None, **more: Any
) -> Plan:
    settings = {
        "preset": "quickstart",
        "output_dir": str(folder),
        "train": {"steps": STEPS, "chunk_steps": 2},
        "validation": {"every": 1},
        **(base or {}),
    }
    sweep = {"name": "tried", "grid": {RATE: rates}, "seeds": [0, 1]} | more
    return make_plan(Sweep.model_validate(sweep), RunConfig.model_validate(settings))


def finish(member: Member, accuracy: float, validation: float | None = None) -> None:
    """The files of a whole run that ended with this accuracy."""
    folder = member.config.run_dir
    write_evaluation(folder / "evaluations/baseline", ASKED, predictions(ASKED, 0.6, seed=0))
    made = predictions(ASKED, accuracy, seed=member.seed)
    write_evaluation(folder / "evaluations/final", ASKED, made)
    write_metrics(folder, steps=STEPS)
    if validation is not None:
        write_validation(folder, STEPS, validation)
    summarize(folder, steps=STEPS, wall_seconds=1.0)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    by_label = {"0.001": (0.8, 0.875), "0.0001": (0.62, 0.625), "0.01": (0.97, 0.75)}
    for member in plan_of(folder, WHOLE).members:
        finish(member, *by_label[member.label.partition("=")[2]])
    return folder


@pytest.fixture
def whole(made_once: Path, tmp_path: Path) -> Plan:
    """Three settings, two seeds each; by validation the first is the best, by the test the last."""
    shutil.copytree(made_once / "runs", tmp_path / "runs")
    return plan_of(tmp_path, WHOLE)


def test_the_chosen_is_the_best_by_validation_not_by_the_test(whole: Plan):
    found = compare_settings(whole, {})
    assert (found.chosen, found.chosen_by) == ("learning_rate=0.001", "validation")
    assert found.conclusion.startswith("Chosen by validation (87.5%): learning_rate=0.001")
    by_label = {one.label: one for one in found.settings}
    chosen, best = by_label["learning_rate=0.001"], by_label["learning_rate=0.01"]
    assert chosen.gain is not None
    assert best.gain is not None
    assert best.gain.value > chosen.gain.value
    assert chosen.final == pytest.approx(chosen.baseline + chosen.gain.value)
    assert chosen.to_chosen is None
    # Against the chosen one: the same as the difference of the gains, for all share the baseline.
    assert best.to_chosen is not None
    assert best.to_chosen.value == pytest.approx(best.gain.value - chosen.gain.value)
    assert best.gain_p_holm == pytest.approx(3 * best.gain.p_value)
    assert found.problems == 120


def test_without_validation_the_highest_is_called_a_selection(whole: Plan):
    for member in whole.members:
        (member.config.run_dir / "validation.jsonl").unlink()
    found = compare_settings(whole, {})
    assert (found.chosen, found.chosen_by) == ("learning_rate=0.01", "test")
    assert "the highest of several is high in part by luck" in found.conclusion


def test_runs_of_two_graders_are_compared_with_a_note(whole: Plan):
    assert not any("grader" in note for note in compare_settings(whole, {}).notes)
    older = whole.members[0].config.run_dir / "evaluations/final"
    write_evaluation(older, ASKED, predictions(ASKED, 0.8, seed=0), grader_version="0")
    [note] = [note for note in compare_settings(whole, {}).notes if "grader" in note]
    assert note.startswith("The answers were graded by versions 0 and ")


def test_a_run_that_failed_is_named_and_the_others_are_compared(whole: Plan):
    broken = whole.members[1]
    (broken.config.run_dir / "summary.json").unlink()
    found = compare_settings(whole, {broken.run: "The server failed."})
    one = found.settings[0]
    assert [member.trouble for member in one.members] == ["", "The server failed."]
    assert one.gain is not None
    assert one.gain.seeds == 1
    assert found.chosen != one.label  # it is not whole
    assert f"({broken.run}, 0 steps): The server failed" in markdown(found).replace("\\", "")
    assert "1 of 6 runs are not in the comparison" in " ".join(found.notes)


def test_a_damaged_evaluation_is_no_result(whole: Plan):
    member = whole.members[0]
    assert is_trained(member.config)
    path = member.config.run_dir / "evaluations/final/predictions.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not is_trained(member.config)
    assert compare_settings(whole, {}).settings[0].members[0].trouble


def test_a_run_that_its_own_budget_ended_is_whole(whole: Plan):
    config = whole.members[0].config
    summary = read_summary(config.run_dir)
    assert summary is not None
    steps = config.train.model_copy(update={"steps": summary.steps + 10})
    longer = config.model_copy(update={"train": steps})
    limits = config.limits.model_copy(update={"budget_usd": 5.0})
    limited = longer.model_copy(update={"limits": limits})
    assert not is_trained(limited)
    end = BudgetEnd("limits.budget_usd", 5.0, summary.steps, summary.steps + 10, 4.0, 0.9, 0.4)
    write_json(config.run_dir / "summary.json", replace(summary, budget=end).to_json())
    assert is_trained(limited)
    assert not is_trained(longer)  # without a budget it goes on


def end_by_budget(member: Member, step: int) -> None:
    """The member's run ended at `step` by its budget of $5; `finish` wrote the rest."""
    folder = member.config.run_dir
    end = BudgetEnd("limits.budget_usd", 5.0, step, STEPS, 4.0, 0.9, 0.4)
    note_budget_end(folder, end)
    write_metrics(folder, steps=step)
    summarize(folder, steps=step, wall_seconds=1.0)


def test_a_run_that_its_budget_ended_is_chosen_by_its_last_validation(whole: Plan):
    plan = plan_of(whole.base.output_dir, WHOLE, base={"limits": {"budget_usd": 5.0}})
    for member in plan.members[:2]:  # the best by validation
        (member.config.run_dir / "validation.jsonl").unlink()
        write_validation(member.config.run_dir, 4, 0.875)
        end_by_budget(member, 4)
    found = compare_settings(plan, {})
    assert (found.chosen, found.chosen_by) == ("learning_rate=0.001", "validation")
    assert [(one.steps, one.planned) for one in found.settings[0].members] == [(4, STEPS)] * 2
    assert found.settings[1].members[0].planned is None
    [note] = [note for note in found.notes if "budget" in note]
    assert "learning_rate=0.001 seed=0 at 4 of 8 steps; learning_rate=0.001 seed=1 at 4" in note
    table = markdown(found).replace("\\", "")
    assert "(ended at 4 of 8 steps by its budget)" in table
    write_report(found, whole.base.output_dir / "out")
    assert "4 of 8, by its budget" in (whole.base.output_dir / "out/report.html").read_text()


def test_why_it_was_not_chosen_by_validation_is_true(whole: Plan):
    """A budget may end a run at a checkpoint that is not due to be validated."""
    plan = plan_of(whole.base.output_dir, WHOLE, base={"limits": {"budget_usd": 5.0}})
    end_by_budget(plan.members[2], 6)
    found = compare_settings(plan, {})
    assert (found.chosen, found.chosen_by) == ("learning_rate=0.01", "test")
    assert "Nothing was validated" not in found.conclusion
    assert (
        "1 of 6 runs was not validated at its end (learning_rate=0.0001 seed=0 at step 6 of 8, "
        "where its budget ended it), so this one was picked" in found.conclusion
    )
    assert compare_settings(whole, {}).settings[1].members[0].trouble  # no budget: it goes on


def test_nothing_is_whole_yet(tmp_path: Path):
    plan = plan_of(tmp_path, [1e-3])
    found = compare_settings(plan, {})
    assert (found.chosen, found.problems) == (None, 0)
    write_report(found, tmp_path)
    assert "nothing to compare" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "comparison.svg").exists()


def test_the_same_runs_give_the_same_bytes(whole: Plan, tmp_path: Path):
    made: list[dict[str, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_report(compare_settings(whole, {}), folder)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    assert made[0].keys() == {"summary.json", "report.html", "comparison.svg", "table.md"}
    summary = read_sealed(tmp_path / "one/summary.json")
    assert summary.is_sealed
    assert summary.content["chosen"] == "learning_rate=0.001"
    assert set(summary.content["digests"]) == made[0].keys() - {"summary.json"}


def test_what_a_sweep_has_left_is_verified(whole: Plan):
    with open_sweep_folder(whole) as folder:
        assert [one.verdict for one in examine(folder)] == ["sound"]  # the plan
        write_report(compare_settings(whole, {}), folder)
    made = {"plan.json", "summary.json", "report.html", "comparison.svg", "table.md"}
    assert {one.file.name for one in examine(folder) if one.verdict == "sound"} == made
    for name in made:
        data = (folder / name).read_bytes()
        middle = len(data) // 2
        for changed in (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], None):
            (folder / name).unlink() if changed is None else (folder / name).write_bytes(changed)
            assert [o.file.name for o in examine(folder) if o.verdict == "damaged"] == [name]
        (folder / name).write_bytes(data)


def test_what_a_name_holds_shows_as_it_is(tmp_path: Path):
    """A value is text from outside: on a page, in a table, in a picture."""
    plan = plan_of(tmp_path, [], grid={"prompt.template": ["a<b>|`x`\x1b[0m", "think"]}, seeds=[0])
    for member in plan.members:
        finish(member, 0.8)
    found = compare_settings(plan, {})
    write_report(found, tmp_path / "out")
    page, table = ((tmp_path / "out" / name).read_text() for name in ("report.html", "table.md"))
    picture = (tmp_path / "out/comparison.svg").read_text()
    assert "a&lt;b&gt;" in page
    assert "<b>" not in table.replace("\\<b\\>", "")
    for text in (page, table, picture):
        assert "\x1b" not in text
    assert "a<b>" not in picture


# The baseline.


def test_one_answer_of_the_base_model_is_foretold_for_all_that_ask_the_same(tmp_path: Path):
    plan = plan_of(tmp_path, [], grid={"sampling.temperature": [1.0, 0.7]}, seeds=[0, 1])
    first, second, third, _ = plan.members
    assert baseline_key(first.config) == baseline_key(second.config) != baseline_key(third.config)


def test_what_weights_of_a_start_answer_is_asked_by_each_run(tmp_path: Path):
    """Only the base model's answers are kept for others, so the forecast counts them twice."""
    plan = plan_of(tmp_path, [1e-4, 2e-4], seeds=[0])
    begun = {"start_from": "tinker://ID/weights/step-000010"}
    first, second = (
        one.config.model_copy(update={"model": one.config.model.model_copy(update=begun)})
        for one in plan.members
    )
    assert baseline_key(first) != baseline_key(second)
    assert baseline_key(plan.members[0].config) == baseline_key(plan.members[1].config)


# Halving.


def test_the_best_third_goes_on_by_the_mean_of_its_seeds(tmp_path: Path):
    rates = [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4]
    plan = plan_of(tmp_path, rates, halving={"steps": [2, 4], "eta": 3})
    assert rungs(plan) == [2, 4]
    means = dict(zip(rates, [0.5, 0.75, 0.75, 0.25, 0.875, 0.75, 0.9375], strict=True))
    for member in plan.members:
        mean = means[dict(member.changes)[RATE]]
        write_validation(member.config.run_dir, 2, mean + (0.0625 if member.seed else -0.0625))
    # 7 / 3 is 2; of what is worth the same the first in the plan would be.
    assert [one.label for one in go_on(plan.settings, 2, 3)] == [
        "learning_rate=0.0005",
        "learning_rate=0.0007",
    ]
    assert [one.label for one in go_on(plan.settings, 2, 1.75)] == [
        "learning_rate=0.0002",
        "learning_rate=0.0003",
        "learning_rate=0.0005",
        "learning_rate=0.0007",
    ]
    # Without its row a setting does not go on, and takes nobody's place with it.
    (plan.members[-1].config.run_dir / "validation.jsonl").unlink()
    assert [one.label for one in go_on(plan.settings, 2, 7)] == ["learning_rate=0.0005"]


def test_how_many_go_on():
    assert [count_after(n, 3) for n in (0, 1, 2, 3, 8, 9, 27)] == [0, 1, 1, 1, 2, 3, 9]


def test_what_halving_saves_is_foretold(tmp_path: Path):
    plan = plan_of(tmp_path, [1e-4, 2e-4, 3e-4, 4e-4], halving={"steps": [2, 4], "eta": 2})
    assert list(steps_of(plan).values()) == [8, 4, 2, 2]
    # Once all were looked at, it is as they were found.
    for member, accuracy in zip(
        plan.members, [0.5, 0.5, 0.25, 0.25, 0.75, 0.75, 0.625, 0.625], strict=True
    ):
        write_validation(member.config.run_dir, 2, accuracy)
    assert list(steps_of(plan).values()) == [2, 2, 8, 4]
    assert [member.rung for member in work_left(plan)] == [2, 2, 2, 2, None, None, 4, 4]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"halving": {"steps": [3]}}, r"The rung 3 .* each 2 steps"),
        ({"halving": {"steps": [2, 10, 12]}}, "The rung 10 .* is not before train.steps, 8"),
    ],
)
def test_a_rung_that_no_run_is_validated_at_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
):
    with pytest.raises(ConfigError, match=says):
        rungs(plan_of(tmp_path, [1e-3], **changes))


def test_a_member_to_a_rung_is_the_same_run(tmp_path: Path):
    member = plan_of(tmp_path, [1e-3]).members[0]
    rung = member.to_rung(4)
    assert (rung.run, rung.config.train.steps) == (member.run, 4)
    assert rung.title == "learning_rate=0.001 seed=0 to step 4"


def test_a_setting_that_was_stopped_is_shown_and_not_compared(whole: Plan):
    found: Comparison = compare_settings(whole, {}, {"learning_rate=0.0001": 4})
    one = found.settings[1]
    assert (one.stopped_at, one.gain) == (4, None)
    assert not any(member.trouble for member in one.members)
    assert "stopped at 4" in markdown(found)
    best = found.settings[2]
    assert best.gain is not None
    assert best.gain_p_holm == pytest.approx(2 * best.gain.p_value)  # two are compared
