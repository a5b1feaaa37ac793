"""Where evaluations fail, from the folders that runs of any version leave."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up import answer, with_scans, write_evaluation

from trials.planted_failures import planted
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.evaluation.prediction import Prediction
from visual_r1.evaluation.predictions import PREDICTIONS_NAME
from visual_r1.perception import (
    KINDS,
    compared,
    counted,
    failures_of,
    failures_of_run,
    in_a_line,
    judge,
    sentences,
)
from visual_r1.perception.evaluations import FILE_NAME
from visual_r1.report.failures import bars, failure_section

COUNT = 60


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("where-it-fails")


@pytest.fixture(scope="module")
def dataset(output_dir: Path) -> Dataset:
    settings = {"preset": "quickstart", "data": {"train": 16, "validation": 4, "test": COUNT}}
    return prepare(RunConfig.model_validate(settings).data, output_dir)


def answers(problems: list[Problem], mended: int = 0) -> list[Prediction]:
    """What is planted for each problem; the first `mended` of those wrongly reasoned are right."""
    made: list[Prediction] = []
    for problem, one in zip(problems, planted(COUNT, seed=0), strict=True):
        assert problem.id == one.problem.id
        given, right = one.given, one.given.verdict == "right"
        if one.kind == "misreasoned" and mended > 0:
            mended -= 1
            solution = problem.meta["solution"]
            greedy = answer(True, f"<think>{solution}</think><answer>{problem.answer}</answer>",
                            extracted=problem.answer)  # fmt: skip
        else:
            greedy = answer(right, given.response, extracted=given.extracted,
                            verdict=given.verdict)  # fmt: skip
        made.append(Prediction(problem.id, problem.family, greedy, None, (), {}))
    return made


@pytest.fixture
def run_dir(output_dir: Path, dataset: Dataset, tmp_path: Path) -> Path:
    folder = output_dir / "runs" / tmp_path.name
    problems = list(dataset.problems("test"))
    for name, mended in (("baseline", 0), ("final", 7)):
        write_evaluation(folder / "evaluations" / name, problems, answers(problems, mended),
                         dataset_digest=dataset.digest)  # fmt: skip
    return folder


def test_what_is_planted_is_counted_and_the_shares_add_up(run_dir: Path) -> None:
    found = failures_of(run_dir / "evaluations/baseline")
    assert {kind: share.count for kind, share in found.kinds.items()} == {
        **dict.fromkeys(("right", "lucky", "misread", "misreasoned", "both", "form"), 10),
        "untold": 0,
    }
    assert sum(share.value for share in found.kinds.values()) == pytest.approx(1)
    assert (found.read.count, found.read.n) == (20, 50)  # forms tell nothing
    assert (found.n, found.bases, found.missing) == (COUNT, {"facts": COUNT}, "")
    assert sum(sum(kinds.values()) for kinds in found.by_family.values()) == COUNT
    low, high = found.kinds["misread"].ci95
    assert (round(low, 3), round(high, 3)) == (0.093, 0.280)  # Wilson, 10 of 60


def test_a_comparison_says_what_was_mended(run_dir: Path) -> None:
    found = failures_of_run(run_dir)
    changes = compared(found["baseline"], found["final"])
    assert (changes.kinds["misreasoned"].came, changes.kinds["misreasoned"].went) == (0, 7)
    assert changes.mended == {"misreasoned": 7}
    assert (changes.read.came, changes.read.went) == (0, 0)
    assert (changes.reasoned.came, changes.reasoned.n) == (7, 50)
    assert changes.reasoned.p_value == 2 * 0.5**7
    read, reasoned, gained = sentences(changes)
    assert read.endswith("p = 1): not distinguishable.")
    assert "not distinguishable" not in reasoned
    assert gained == "All 7 problems gained had been read rightly and reasoned wrongly."


def test_the_dataset_may_go_once_it_was_looked_at(run_dir: Path, tmp_path: Path) -> None:
    folder = run_dir / "evaluations/final"
    nowhere = tmp_path / "data"
    without = failures_of(folder, nowhere)
    assert f"is not in {nowhere}" in without.missing
    assert without.missing in in_a_line(without)
    assert set(without.bases) == {"none"}
    assert not (folder / FILE_NAME).exists(), "what the dataset would tell is not known yet"
    with_facts = failures_of(folder)
    assert failures_of(folder, nowhere) == with_facts


def test_what_was_kept_is_made_anew_where_it_is_of_something_else(
    run_dir: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_dir / "evaluations/final"
    before = failures_of(folder)
    kept = folder / FILE_NAME
    for damage in (b"", kept.read_bytes()[: kept.stat().st_size // 2], b"PAR1" * 40):
        kept.write_bytes(damage)
        assert failures_of(folder) == before
        assert "is made anew" in caplog.text
        caplog.clear()
    problems = list(dataset.problems("test"))
    write_evaluation(folder, problems, answers(problems, 3), dataset_digest=dataset.digest)
    assert failures_of(folder).kinds["misreasoned"].count == 7
    assert not caplog.text


def test_predictions_that_are_damaged_are_one_sentence(run_dir: Path) -> None:
    path = run_dir / "evaluations/final" / PREDICTIONS_NAME
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(DataError, match=r"remove the folder .* and evaluate again"):
        failures_of(path.parent)
    assert list(failures_of_run(run_dir)) == ["baseline"]
    path.unlink()
    with pytest.raises(DataError, match=r"remove the folder .* and evaluate again"):
        failures_of(path.parent)


def test_without_facts_the_passes_are_used_and_scans_that_nobody_read_are_not(
    output_dir: Path, tmp_path: Path
) -> None:
    folder = output_dir / "runs" / tmp_path.name / "evaluations/base"
    problems = [
        Problem(f"real-{i}", (b"",), "<image>Find x.", "5", meta={"family": "real"})
        for i in range(40)
    ]
    made = [
        Prediction(p.id, "real", answer(i % 2 == 0, f"<answer>{5 if i % 2 == 0 else 6}</answer>",
                                        extracted="5" if i % 2 == 0 else "6"), None, (), {})
        for i, p in enumerate(problems)
    ]  # fmt: skip
    write_evaluation(folder, problems, with_scans(made, 0.5, seed=1))
    found = failures_of(folder)
    seconds = {one.id: one.second for one in with_scans(made, 0.5, seed=1)}
    right_from_scan = [
        id for id, one in found.judgements.items()
        if seconds[id].verdict == "right" and one.kind != "right"  # type: ignore[union-attr]
    ]  # fmt: skip
    assert found.kinds["misreasoned"].count == len(right_from_scan) > 3
    assert found.untold["neither facts nor a pass from the description"] == 4  # without a scan
    assert found.bases["none"] == 4


def test_two_evaluations_of_other_problems_cannot_be_compared() -> None:
    [one, other] = list(planted(2, seed=1))
    a, b = (counted(p.problem.id, {p.problem.id: judge(p.problem, p.given)},
                    {p.problem.id: p.problem.family}) for p in (one, other))  # fmt: skip
    with pytest.raises(DataError, match="have no problem in common"):
        compared(a, b)


def test_the_picture_has_a_bar_an_evaluation_and_its_pieces_fill_it(run_dir: Path) -> None:
    found = failures_of_run(run_dir)
    middle = {name: replace(found["final"], name=name) for name in ("step-20", "step-5")}
    section = failure_section(found | middle)
    assert section is not None
    chart = str(section.chart)
    order = ("baseline", "step-5", "step-20", "final")
    places = [chart.index(f'text-anchor="end">{name}<') for name in order]
    assert places == sorted(places)
    one = str(bars([found["final"]], "one"))
    widths = [float(piece.split('"')[0]) for piece in one.split('width="')[1:]]
    assert sum(widths) == pytest.approx(800, abs=0.1)
    assert [kind for kind, *_ in section.lines] == [kind for kind in KINDS if kind != "untold"]
    named = bars([replace(found["final"], name="<script>")], "two")
    assert "<script>" not in named
