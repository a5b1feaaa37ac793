"""Comparisons of evaluations: what is paired, what is refused, and what is said."""

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from made_up import answer, predictions, problems, write_evaluation
from scipy import stats

from visual_r1.compare.command import main
from visual_r1.compare.comparison import compare, compare_seeds
from visual_r1.compare.page import write_page
from visual_r1.compare.sides import Seeds, Side, by_setting, find_sides
from visual_r1.compare.terminal import show
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError, RunError
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.prediction import Prediction
from visual_r1.evaluation.seeds import gains
from visual_r1.evaluation.statistics import Pairs, exact_mcnemar, holm, paired_difference_ci
from visual_r1.printing import Terminal
from visual_r1.runs.folder import config_without_secrets
from visual_r1.storage import write_json
from visual_r1.tables import read_table, write_table

ASKED = problems(60)


def evaluation(
    run: Path,
    name: str,
    made: Sequence[Prediction],
    asked: Sequence[Problem] = (),
    **changes: object,
) -> Path:
    folder = run / "evaluations" / name
    folder.mkdir(parents=True)
    write_evaluation(folder, asked or ASKED, made, **changes)
    return folder


def side(folder: Path, label: str = "") -> Side:
    return Side(label or folder.name, folder, read_report(folder))


def run_of(output_dir: Path, seed: int, **train: object) -> Path:
    """The folder of a run with nothing in it but its configuration."""
    config = RunConfig.model_validate(
        {"output_dir": output_dir, "train": {"seed": seed, **train}, "preset": "quickstart"}
    )
    config.run_dir.mkdir(parents=True)
    write_json(config.run_dir / "config.json", config_without_secrets(config))
    return config.run_dir


@pytest.fixture
def two(tmp_path: Path) -> list[Side]:
    run = tmp_path / "runs" / "a"
    weak, strong = predictions(ASKED, 0.4, seed=1), predictions(ASKED, 0.8, seed=2)
    return [
        side(evaluation(run, "baseline", weak)),
        side(evaluation(run, "final", strong)),
    ]


def test_two_evaluations_are_compared_as_pairs(two: list[Side]):
    (found,) = compare(two).against
    weak, strong = predictions(ASKED, 0.4, seed=1), predictions(ASKED, 0.8, seed=2)
    right = [[one.greedy.right for one in made if one.greedy] for made in (weak, strong)]
    pairs = Pairs.count(*right)
    assert found.accuracy.delta_ci95 == paired_difference_ci(pairs)
    assert found.accuracy.p_value == found.p_holm == exact_mcnemar(pairs.gained, pairs.lost)
    both = list(zip(ASKED, *right, strict=True))
    assert found.gained == tuple(one.id for one, before, after in both if after and not before)
    assert found.lost == tuple(one.id for one, before, after in both if before and not after)
    assert found.headline.startswith("final is ")
    assert "points above baseline" in found.headline


def test_samples_are_compared_over_problems_and_not_over_samples(two: list[Side]):
    measures = {one.name: one for one in compare(two).against[0].measures}
    assert list(measures) == ["avg@8", "pass@8", "maj@8", "blind"]
    weak, strong = predictions(ASKED, 0.4, seed=1), predictions(ASKED, 0.8, seed=2)
    shares = [[one.sampled_correct / 8 for one in made] for made in (weak, strong)]
    paired = stats.ttest_rel(shares[1], shares[0])
    avg = measures["avg@8"].gain
    assert avg.value == pytest.approx(sum(shares[1]) / 60 - sum(shares[0]) / 60)
    low, high = paired.confidence_interval()
    # Ours has half a problem's doubt more.
    assert avg.ci95[0] < low < high < avg.ci95[1]
    assert avg.ci95 == pytest.approx((low, high), abs=0.01)


def test_an_evaluation_and_itself_are_not_distinguishable(two: list[Side]):
    (found,) = compare([two[0], replace(two[0], label="again")]).against
    assert found.headline.startswith("again is not distinguishable from baseline")
    assert "a true difference of about 12.9 points would show in four of five" in found.evidence
    assert found.gained == found.lost == ()
    (note,) = compare([two[0], replace(two[0], label="again")]).notes
    assert note.startswith("again is named twice")


def test_several_are_adjusted_by_holm(two: list[Side], tmp_path: Path):
    more = [
        side(evaluation(tmp_path / "runs" / "b", name, predictions(ASKED, share, seed=seed)))
        for name, share, seed in (("step-2", 0.55, 3), ("step-4", 0.7, 4))
    ]
    found = compare([*two, *more], against=1)
    assert found.reference == "final"
    assert [one.label for one in found.against] == ["baseline", "step-2", "step-4"]
    p_values = [one.accuracy.p_value for one in found.against]
    assert [one.p_holm for one in found.against] == holm(p_values) != p_values


def test_what_is_in_one_alone_or_failed_is_in_no_pair_and_counted(tmp_path: Path, two: list[Side]):
    made = predictions(ASKED, 0.8, seed=2)
    made[3] = replace(made[3], greedy=None, failures={"greedy": "refused"})
    mended = [replace(ASKED[5], answer="999"), *ASKED[6:50]]
    asked = [*ASKED[:5], *mended]
    (found,) = compare([two[0], side(evaluation(tmp_path, "x", made[:50], asked))]).against
    assert found.accuracy.n == 48
    assert dict(found.left_out) == {
        "in baseline alone": 10,
        "with another question, answer or picture": 1,
        "whose request failed in one of the two": 1,
    }


def test_evaluations_of_different_data_are_refused_with_the_numbers(
    tmp_path: Path, two: list[Side]
):
    others = [replace(one, problem=f"{one.problem} Again.") for one in ASKED[:20]]
    other = side(evaluation(tmp_path, "x", predictions(ASKED, 0.8, seed=2), others + ASKED[20:]))
    with pytest.raises(DataError, match="of the 60 ids that both have, 20 stand for another"):
        compare([two[0], other])
    named = [replace(one, id=f"other-{one.id}") for one in ASKED]
    other = side(evaluation(tmp_path, "y", predictions(named, 0.8, seed=2), named))
    with pytest.raises(DataError, match="they share no problem"):
        compare([two[0], other])


def test_a_picture_is_part_of_a_problem(tmp_path: Path, two: list[Side]):
    others = [replace(one, images=ASKED[(at + 1) % 60].images) for at, one in enumerate(ASKED)]
    other = side(evaluation(tmp_path, "x", predictions(ASKED, 0.8, seed=2), others))
    with pytest.raises(DataError, match="60 stand for another question, answer or picture"):
        compare([two[0], other])


def test_a_file_that_is_cut_or_lacks_a_column_is_said_in_a_sentence(
    tmp_path: Path, two: list[Side]
):
    other = side(evaluation(tmp_path, "x", predictions(ASKED, 0.8, seed=2)))
    path = other.folder / "predictions.parquet"
    table = read_table(path)
    write_table(path, table.drop_columns(["family", "sampled_extracted"]))
    with pytest.raises(DataError, match="has no column family: evaluate again"):
        compare([two[0], other])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        compare([two[0], other])


def test_conditions_that_differ_are_named_and_what_they_spoil_is_left_out(
    tmp_path: Path, two: list[Side]
):
    made = predictions(ASKED, 0.8, seed=2)
    made[0] = replace(made[0], greedy=answer(False, right_rounded=True, verdict="right"))
    folder = evaluation(
        tmp_path, "x", made, rounding="rounded", temperature=0.6, grader_version="2"
    )
    found = compare([two[0], side(folder)])
    (against,) = found.against
    assert [line.split(":")[0] for line in against.differing] == [
        "temperature",
        "rounding",
        "grader version",
    ]
    assert (found.rounding, against.measures) == ("exact", ())
    assert "rounding 'exact'" in found.notes[0]
    assert ASKED[0].id not in against.gained
    assert ASKED[0].id in compare([two[0], side(folder)], rounding="rounded").against[0].gained


def test_without_a_problem_that_both_answered_there_is_nothing_to_compare(
    tmp_path: Path, two: list[Side], capsys: pytest.CaptureFixture[str]
) -> None:
    unanswered = [
        replace(one, greedy=None, failures={"greedy": "refused"})
        for one in predictions(ASKED, 0.8, seed=2)
    ]
    failed = side(evaluation(tmp_path, "x", unanswered))
    says = "No problem was answered in both baseline and x: both were asked the same 60, and"
    with pytest.raises(DataError, match=says):
        compare([two[0], failed])
    with pytest.raises(DataError, match=says):
        compare_seeds([Seeds("a", (two[0],)), Seeds("b", (failed,))])
    assert main([str(two[0].folder), str(failed.folder)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: No problem was answered in both")


def test_groups_are_adjusted_among_themselves_and_add_up(two: list[Side]):
    for by in ("family", "kind", "size", "difficulty"):
        found = compare(two, by=by)
        groups = found.against[0].groups
        assert sum(one.accuracy.n for one in groups) == 60
        assert sum(one.accuracy.gained for one in groups) == len(found.against[0].gained)
        assert [one.p_holm for one in groups] == holm([one.accuracy.p_value for one in groups])
    assert found.by_whom == "its own pass rate"


def test_seeds_are_combined_by_name_and_by_configuration(tmp_path: Path):
    runs = {
        (rate, seed): run_of(tmp_path, seed, learning_rate=rate)
        for rate in (1e-3, 1e-4)
        for seed in (0, 1, 2)
    }
    for (rate, seed), run in runs.items():
        share = 0.8 if rate == 1e-3 else 0.6
        evaluation(run, "final", predictions(ASKED, share, seed=10 * seed + int(rate * 1e4)))
    evaluation(next(iter(runs.values())), "baseline", predictions(ASKED, 0.4, seed=99))
    base = f"{next(iter(runs.values())).name}:baseline"
    names = [run.name for run in runs.values()]
    settings = by_setting([base, *names], tmp_path)
    assert [len(one.sides) for one in settings] == [1, 3, 3]
    found = compare_seeds(settings)
    by_hand = by_setting([base, ",".join(names[:3]), ",".join(names[3:])], tmp_path)
    assert compare_seeds(by_hand) == found
    right = [
        [[one.greedy.right for one in predictions(ASKED, share, seed=seed) if one.greedy]
         for seed in seeds]
        for share, seeds in ((0.4, (99,)), (0.8, (10, 20, 30)), (0.6, (1, 11, 21)))
    ]  # fmt: skip
    expected = gains([right[0]] * 2, right[1:])
    assert [one.gain for one in found.against] == expected
    assert [one.p_holm for one in found.against] == holm([one.p_value for one in expected])
    assert any("there is one evaluation" in note for note in found.notes)


def test_what_is_meant_by_a_name(tmp_path: Path):
    run = run_of(tmp_path, 0)
    made = predictions(ASKED, 0.5, seed=1)
    with pytest.raises(RunError, match="it has none that is complete"):
        find_sides([run.name], tmp_path)
    evaluation(run, "baseline", made)
    final = evaluation(run, "final", made)
    assert [one.label for one in find_sides([run.name], tmp_path)] == ["baseline", "final"]
    other = evaluation(tmp_path / "elsewhere", "step-8", made)
    named = [str(final), f"{run.name}:baseline", str(run), str(other)]
    assert [one.label for one in find_sides(named, tmp_path)] == [
        f"{run.name}:final (1)",
        f"{run.name}:baseline",
        f"{run.name}:final (3)",
        "elsewhere:step-8",
    ]
    with pytest.raises(RunError, match=f"no evaluation 'step-9': it has {run.name}:baseline"):
        find_sides([f"{run.name}:step-9", run.name], tmp_path)
    # As the address of a page names it.
    of_page = find_sides([f"{run.name}/baseline", f"{run}/final"], tmp_path)
    assert [one.label for one in of_page] == ["baseline", "final"]
    with pytest.raises(RunError, match=f"no evaluation 'step-9': it has {run.name}:baseline"):
        find_sides([f"{run.name}/step-9", run.name], tmp_path)
    with pytest.raises(RunError, match="no run 'nobody/final'"):
        find_sides(["nobody/final", run.name], tmp_path)


def test_the_page_holds_pictures_of_won_and_lost_and_what_models_wrote_is_text(
    tmp_path: Path, two: list[Side]
):
    hostile = '<script>alert(1)</script><img src=x onerror="alert(2)">' + "x" * 100_000
    made = [
        replace(one, greedy=replace(one.greedy, response=hostile, extracted="\u202e12"))
        if one.greedy
        else one
        for one in predictions(ASKED, 0.8, seed=2)
    ]
    found = compare([two[0], side(evaluation(tmp_path, "x", made), "<b>x</b>")])
    path = tmp_path / "compare.html"
    anchors = write_page(found, path)
    page = path.read_text()
    changed = len(found.against[0].gained) + len(found.against[0].lost)
    assert len(anchors) == page.count('class="exhibit"') == changed
    assert page.count("data:image/png;base64,") == changed
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<b>x</b>" not in page
    assert "\u202e" not in page
    assert all(f'id="{one}"' in page for one in anchors)


def test_ids_in_a_terminal_lead_to_the_page(two: list[Side]):
    found = compare(two)
    out = StringIO()
    console = Terminal(out, force_terminal=True, width=100)
    show(found, console, lambda _, id: f"file:///page.html#{id}", most=2)
    id = found.against[0].gained[0]
    assert f"file:///page.html#{id}\x1b\\" in out.getvalue()
    plain = StringIO()
    show(found, Terminal(plain, width=100), lambda *_: "file:///page.html", most=2)
    assert "\x1b" not in plain.getvalue()
    assert f"and {len(found.against[0].gained) - 2} more" in plain.getvalue()


def test_the_command_writes_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = run_of(tmp_path, 0)
    evaluation(run, "baseline", predictions(ASKED, 0.4, seed=1))
    evaluation(run, "final", predictions(ASKED, 0.8, seed=2))
    place = ["--output-dir", str(tmp_path)]
    assert main([run.name, *place, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main([run.name, *place, "--json", str(tmp_path / "c.json")]) == 0
    assert "points above baseline" in " ".join(capsys.readouterr().out.split())
    against = [run.name, "--against", f"{run.name}:final", *place]
    assert main(against) == 0
    assert "points below final" in " ".join(capsys.readouterr().out.split())
    written = json.loads((tmp_path / "c.json").read_text())
    assert written.items() >= printed.items()
    assert len(printed["against"][0]["gained"]) == printed["against"][0]["accuracy"]["gained"]
    for wrong, why in (
        (["nobody"], "There is no run 'nobody'"),
        ([f"{run.name}:final"], "is one evaluation, and two are compared"),
        ([run.name, "--against", "x"], "--against 'x' is none of what is compared"),
        ([run.name, "--seeds", "--by", "family"], "--by does not go with --seeds"),
        ([f"{run.name}:final,{run.name}:baseline", "--seeds"], "2 evaluations of one setting"),
        ([run.name, "--html", str(tmp_path)], "is a folder: name a file"),
        ([run.name, "--most", "-1"], "--most -1 is no number of ids"),
        ([f"{run.name},{run.name}", f"{run.name}:baseline", "--seeds"], "final is named twice"),
    ):
        assert main([*wrong, *place]) == 1
        said = capsys.readouterr()
        assert why in said.err
        assert said.out == ""
        assert said.err.count("\n") == 1
