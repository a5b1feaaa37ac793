"""Grading again: what changed and why, beside the old files and never in them."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import answer, conditions, picture, write_evaluation

from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset, prepare
from visual_r1.data.problem import Problem
from visual_r1.evaluation.metrics import evaluation_folder
from visual_r1.evaluation.prediction import Prediction
from visual_r1.grading import GRADER_VERSION, Grade
from visual_r1.hashing import file_digest
from visual_r1.regrade import graders
from visual_r1.regrade.command import main
from visual_r1.regrade.graders import Stored, open_graders
from visual_r1.regrade.regrade import regrade
from visual_r1.runs.decisions import content_of_problem, record
from visual_r1.runs.folder import config_without_secrets
from visual_r1.runs.journal import Journal
from visual_r1.storage import write_json
from visual_r1.tables import pa, pq, read_table, write_table
from visual_r1.verify.examination import examine

THINK = "<think>angle A reads 74</think>"


def said(text: str) -> str:
    return f"{THINK}<answer>{text}</answer>"


class MadeRun:
    """A run whose stored verdicts are those of another grader: `rights` of test, `wrongs` of
    train."""

    def __init__(self, folder: Path) -> None:
        self.config = RunConfig.model_validate(
            {
                "preset": "quickstart",
                "output_dir": folder,
                "data": {"train": 12, "validation": 2, "test": 8},
                "run": {"name": "made"},
            }
        )
        self.dataset: Dataset = prepare(self.config.data, folder)
        self.folder = self.config.run_dir
        self.test = list(self.dataset.problems("test"))
        self.train = list(self.dataset.problems("train"))
        self.folder.mkdir(parents=True)
        write_json(self.folder / "config.json", config_without_secrets(self.config))
        self.evaluate("final", self.predictions())
        self.write_rollouts()

    def predictions(self) -> list[Prediction]:
        """Each answers its problem; the first was called wrong all the same, and its samples."""
        return [
            Prediction(
                id=one.id,
                family=one.family,
                greedy=answer(place > 0, said(f"{one.answer}°"), reason="another answer"),
                blind=answer(True, said("-1")),
                sampled=(answer(place > 0, said(one.answer)), answer(False, said("-1"))),
                failures={},
            )
            for place, one in enumerate(self.test)
        ]

    def evaluate(self, name: str, made: Sequence[Prediction], **changes: object) -> None:
        write_evaluation(
            evaluation_folder(self.folder, name),
            self.test,
            made,
            **{"k": 2, "dataset_digest": self.dataset.digest, **changes},
        )

    def write_rollouts(self) -> None:
        rows = [
            {
                "step": place // 6,
                "problem_id": one.id,
                "group": place % 6,
                "sample": sample,
                "response": said(one.answer if sample else "-1"),
                "verdict": "right" if sample else "right" if place == 0 else "wrong",
                "reason": "the same answer" if sample or place == 0 else "another answer",
            }
            for place, one in enumerate(self.train)
            for sample in range(2)
        ]
        path = self.folder / "rollouts/chunk-00000.parquet"
        path.parent.mkdir()
        write_table(path, pa.Table.from_pylist(rows))
        journal = Journal(self.folder)
        row = {
            "step": 2, "state_path": "tinker://a:train:0/weights/b", "sampler_path": "tinker://a",
            "expires_at": None, "config_digest": self.config.digest(),
            "dataset_digest": self.dataset.digest, "backend": "embedded",
            "created_at": "2026-05-01T10:00:00+00:00", "updates": 2, "carry": {},
            "periodic": False, "digests": journal.rollouts_digest(path), "lines": {},
        }  # fmt: skip
        (self.folder / "ledger.jsonl").write_text(json.dumps(row) + "\n")

    def files(self) -> dict[str, str]:
        """Digests of all that is not a result."""
        return {
            path.relative_to(self.folder).as_posix(): file_digest(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and "regraded-" not in path.as_posix()
        }


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    MadeRun(folder)
    return folder


@pytest.fixture
def place(made_once: Path, tmp_path: Path) -> Path:
    """A working directory with a run of its own."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def problems_of(place: Path, split: str) -> list[Problem]:
    from visual_r1.data.dataset import open_dataset

    [folder] = place.glob("data/[!.]*")
    return list(open_dataset(folder).problems(split))  # type: ignore[arg-type]


def run_of(place: Path) -> Path:
    return place / "runs/made"


def test_what_changed_and_the_figures_before_and_after(place: Path) -> None:
    before = {path: file_digest(path) for path in place.rglob("*") if path.is_file()}
    done = regrade(run_of(place))
    assert not done.trouble
    assert all(file_digest(path) == digest for path, digest in before.items()), "the old ones stay"
    found = done.evaluations[f"evaluations/final/regraded-{GRADER_VERSION}.parquet"]
    assert found.before.passes["greedy"].correct == 7
    assert {name: one.passes["greedy"].correct for name, one in found.after.items()} == {
        "exact": 8,
        "rounded": 8,
    }
    assert found.before.passes["blind"].correct == 8 and found.after["exact"].passes["blind"].n == 8
    assert found.after["exact"].passes["blind"].correct == 0
    assert (found.before.pass_at_k, found.after["exact"].pass_at_k) == (7 / 8, 1.0)
    assert found.after["exact"].sampled_accuracy == 0.5
    kinds = {
        (one.kind.name, one.kind.before, one.kind.after): (one.count, one.kind)
        for one in found.changes
    }
    assert {key: count for key, (count, _) in kinds.items()} == {
        ("greedy", "wrong", "right"): 1,
        ("blind", "right", "wrong"): 8,
        ("sampled", "wrong", "right"): 1,
    }
    greedy = kinds["greedy", "wrong", "right"][1]
    assert (greedy.reason_before, greedy.reason) == ("another answer", "the same answer")
    assert greedy.cause == "grader"
    rollouts = done.rollouts[f"rollouts/regraded-{GRADER_VERSION}/chunk-00000.parquet"]
    assert rollouts.steps == (0, 1)
    assert rollouts.before.passes["rollouts"].correct == 13
    assert rollouts.after["exact"].passes["rollouts"].correct == 12
    assert rollouts.after["exact"].passes["rollouts"].n == 24
    [change] = rollouts.changes
    assert (change.kind.before, change.kind.after, change.count) == ("right", "wrong", 1)
    assert change.examples[0].answer == "-1" and "step 0, group 0" in change.examples[0].where


def test_results_have_the_columns_of_predictions_and_both_roundings(place: Path) -> None:
    regrade(run_of(place))
    folder = evaluation_folder(run_of(place), "final")
    old = pq.read_schema(folder / "predictions.parquet").names
    rows = read_table(folder / f"regraded-{GRADER_VERSION}.parquet").to_pylist()
    assert set(old) - {"images"} <= rows[0].keys()
    first = rows[0]
    assert (first["verdict"], first["correct"]) == ("right", True)
    assert (first["correct_exact"], first["correct_rounded"]) == (True, True)
    assert (
        first["sampled_verdicts"]
        == ["right", "wrong"]
        == ["right" if one else "wrong" for one in first["sampled_exact"]]
    )
    assert (first["blind_verdict"], first["blind_correct"]) == ("wrong", False)


def test_what_is_done_is_found_and_what_was_broken_off_is_made(place: Path) -> None:
    run = run_of(place)
    first = regrade(run)
    results = sorted(run.rglob(f"*regraded-{GRADER_VERSION}*"))
    files = [path for path in (*results, *run.glob("rollouts/regraded-*/*")) if path.is_file()]
    stamps = {path: (path.stat().st_mtime_ns, file_digest(path)) for path in files}
    assert len(files) == 4
    assert regrade(run) == first
    assert {path: (path.stat().st_mtime_ns, file_digest(path)) for path in files} == stamps
    # Killed between a result and its record; a record that was cut; a result that was changed.
    folder = evaluation_folder(run, "final")
    record_ = folder / f"regraded-{GRADER_VERSION}.json"
    result = record_.with_suffix(".parquet")
    damages: list[Callable[[], object]] = [
        record_.unlink,
        lambda: record_.write_text("{"),
        lambda: result.write_bytes(b""),
    ]
    for damage in damages:
        damage()
        assert regrade(run) == first
        assert {path: file_digest(path) for path in files} == {
            path: digest for path, (_, digest) in stamps.items()
        }


def test_verify_looks_at_results(place: Path) -> None:
    run = run_of(place)
    regrade(run)
    record_ = evaluation_folder(run, "final") / f"regraded-{GRADER_VERSION}.json"

    def verdict() -> list[str]:
        return [one.verdict for one in examine(run) if one.file == record_]

    assert verdict() == ["sound"]
    record_.with_suffix(".parquet").write_bytes(b"")
    assert verdict() == ["damaged"]


def test_several_processes_come_to_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [
        Stored(said(f"{number}.50"), f"{number / 2 if number % 3 else number + 0.5}")
        for number in range(700)
    ]
    monkeypatch.setattr("visual_r1.regrade.graders.WORTH_A_PROCESS", 10)
    with open_graders(1, len(stored)) as graders:
        here = graders.grade(stored)
    with open_graders(2, len(stored)) as graders:
        assert graders.grade(stored) == here
    assert {one.exact.verdict for one in here} == {"right", "wrong"}


def test_what_is_damaged_is_said_and_the_rest_is_graded(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(place)
    shutil.copytree(evaluation_folder(run, "final"), evaluation_folder(run, "other"))
    predictions = evaluation_folder(run, "other") / "predictions.parquet"
    content = bytearray(predictions.read_bytes())
    content[len(content) // 2] ^= 1
    predictions.write_bytes(content)
    chunk = run / "rollouts/chunk-00000.parquet"
    table = read_table(chunk)
    changed = table.set_column(
        table.schema.get_field_index("verdict"), "verdict", pa.array(["right"] * table.num_rows)
    )
    write_table(chunk, changed)
    done = regrade(run)
    assert list(done.evaluations) == [f"evaluations/final/regraded-{GRADER_VERSION}.parquet"]
    assert not done.rollouts
    assert [str(predictions) in one for one in done.trouble] == [True, False]
    assert "its rows have the digest" in done.trouble[1]
    assert main([str(run), "--output-dir", str(place)]) == 1
    out, err = capsys.readouterr()
    assert "the old ones stay" in out and err.count("not graded:") == 2


def test_without_its_dataset_evaluations_go_by_what_they_hold(place: Path) -> None:
    run, whole = run_of(place), regrade(run_of(place))
    shutil.rmtree(place / "data")
    for path in run.rglob("regraded-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = regrade(run)
    [alone], [there] = done.evaluations.values(), whole.evaluations.values()
    assert (alone.before, alone.after, alone.changes) == (there.before, there.after, there.changes)
    assert (alone.basis.dataset, alone.not_graded) == ("", {})
    [trouble] = done.trouble
    assert "the gold answers are in the dataset" in trouble and "prepare it again" in trouble


def test_a_decision_is_respected_and_named(place: Path) -> None:
    run = run_of(place)
    test, train = problems_of(place, "test"), problems_of(place, "train")
    regrade(run)
    for problem, kind, other in ((test[0], "drop", ""), (train[1], "other", "-1")):
        record(
            place, problem.id, content_of_problem(problem), kind,  # type: ignore[arg-type]
            gold=problem.answer, answer=other, who="ada",
        )  # fmt: skip
    done = regrade(run)
    [found], [rollouts] = done.evaluations.values(), done.rollouts.values()
    assert (found.before.passes["greedy"].n, found.after["exact"].passes["greedy"].n) == (8, 7)
    assert (found.dropped, found.decided) == (1, (test[0].id,))
    dropped = [one for one in found.changes if one.kind.after == "dropped"]
    assert {one.kind.cause for one in dropped} == {"decision"}
    assert sum(one.count for one in dropped) == 4
    assert rollouts.decided == (train[1].id,)
    by_decision = [one for one in rollouts.changes if one.kind.cause == "decision"]
    assert {(one.kind.before, one.kind.after): one.count for one in by_decision} == {
        ("wrong", "right"): 1,
        ("right", "wrong"): 1,
    }
    # The same is found without the dataset, by the pictures that the predictions have.
    shutil.rmtree(place / "data")
    [alone] = regrade(run).evaluations.values()
    assert (alone.dropped, alone.decided) == (1, (test[0].id,))


def test_choices_that_an_older_file_does_not_tell_are_left(place: Path) -> None:
    """Its dataset has gone, and nobody knows what A stood for."""
    run = run_of(place)
    asked = [
        Problem(f"c{number}", (picture(number),), "Which? A 5 B 6", "A", ("5", "6"))
        for number in range(2)
    ]
    given = answer(True, said("5"), reason="the text of the choice")
    made = [Prediction(one.id, "c", given, None, (), {}) for one in asked]
    folder = evaluation_folder(run, "choices")
    write_evaluation(folder, asked, made, k=1, dataset_digest="gone")
    key = f"evaluations/choices/regraded-{GRADER_VERSION}.parquet"
    assert regrade(run).evaluations[key].after["exact"].passes["greedy"].correct == 2
    table = read_table(folder / "predictions.parquet").drop_columns(["choices"])
    write_table(folder / "predictions.parquet", table)
    report = json.loads((folder / "report.json").read_text())
    for name in ("predictions_digest", "checksum"):
        del report[name]
    (folder / "report.json").write_text(json.dumps(report))
    found = regrade(run).evaluations[key]
    assert (found.graded, sum(found.not_graded.values())) == (0, 2)
    assert found.after["exact"].passes["greedy"].correct == 2, "as they were"


def test_the_command_says_it_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["made", "--output-dir", str(place), "--json"]) == 0
    found: list[Any] = json.loads(capsys.readouterr().out)
    [one] = found
    assert (one["grader_version"], one["trouble"]) == (GRADER_VERSION, [])
    assert sum(change["count"] for change in one["changes"]) == 11
    assert main(["nothing", "--output-dir", str(place)]) == 1
    assert "There is no run 'nothing'" in capsys.readouterr().err
    for none in ("0", "-2"):
        assert main(["made", "--output-dir", str(place), "--processes", none]) == 1
        assert f"--processes {none} is no number of processes" in capsys.readouterr().err


def test_answers_under_another_dataset_of_the_same_ids_are_not_taken(place: Path) -> None:
    """A problem is known by its id and its question."""
    run = run_of(place)
    test = problems_of(place, "test")
    others = [replace(one, problem=f"<image>Another question {one.id}") for one in test]
    made = [Prediction(one.id, "f", answer(True, said(one.answer)), None, (), {}) for one in others]
    [folder] = place.glob("data/[!.]*")
    digest = folder.name.rpartition("-")[2]
    write_evaluation(evaluation_folder(run, "elsewhere"), others, made, k=1, dataset_digest=digest)
    found = regrade(run).evaluations[f"evaluations/elsewhere/regraded-{GRADER_VERSION}.parquet"]
    assert found.after["exact"].passes["greedy"].correct == 8
    assert conditions().decisions == ""


def test_a_text_that_the_grader_fails_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(answer: str, *_: object, **__: object) -> Grade:
        if "13" in answer:
            raise ValueError("Exceeds the limit (4300 digits)")
        return Grade("right", "the same answer")

    monkeypatch.setattr(graders, "grade_answer", broken)
    with open_graders(1, 2) as opened:
        one, other = opened.grade(
            [Stored(said("13 of them"), "12"), Stored(said("12 of them"), "12")]
        )
    assert one.exact.verdict == "gave_up" and "ValueError" in one.exact.reason
    assert other.exact.right
