"""What was done once is not done again: evaluations, baselines, deleted results; and what follows
from a run that is there, by its name alone: evaluating, exporting, promoting."""

import json
import shutil
from pathlib import Path

import pytest
from train_command import Folder, command
from warm_command import Ended, WarmCommand

from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.predictions import read_predictions


def said(ended: Ended) -> str:
    """What was printed, without the lines' ends: notes are wrapped."""
    return " ".join(ended.output.split())


class Place:
    """An output folder with a finished run, and the commands of its user."""

    def __init__(self, root: Path, warm: WarmCommand) -> None:
        self.root, self.warm = root, warm
        self.run = Folder(root).run

    def train(self, **changes: object) -> Ended:
        flags = command(**{"train__steps": 2, "validation__every": 1} | changes)[2:]
        return self.warm.run("--output-dir", self.root, *flags)

    def trained(self) -> dict[str, int]:
        """When each file was written that training leaves."""
        files = [self.run / "ledger.jsonl", self.run / "metrics.jsonl", self.run / "export"]
        files += (self.run / "rollouts").iterdir()
        return {path.name: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def place(warm: WarmCommand, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"), warm)
    ended = place.train()
    assert ended.status == 0, ended.output
    return place


def test_other_samples_train_nothing_and_ask_for_samples_alone(place: Place) -> None:
    before, rows = place.trained(), read_predictions(place.run / "evaluations/final")
    ended = place.train(evaluation__samples=3)
    assert ended.status == 0, ended.output
    assert place.trained() == before
    for name in ("baseline", "final"):
        assert f"evaluations/{name} is made anew: evaluation.samples is 3 and was 2" in said(ended)
    assert said(ended).count("24 sampled answers are asked for; 24 greedy, 24 blind are kept") == 2
    after = read_predictions(place.run / "evaluations/final")
    assert [row["response"] for row in after] == [row["response"] for row in rows]
    assert [row["k"] for row in after] == [3] * 24
    assert json.loads((place.run / "summary.json").read_text())["k"] == 3


def test_another_run_takes_the_baseline_and_says_why_it_is_new(place: Place) -> None:
    ended = place.train(run__name="faster", train__learning_rate=0.002)
    assert ended.status == 0, ended.output
    says = "is a new run: another train.learning_rate (there 0.001, here 0.002) than"
    assert says in said(ended)
    report = read_report(place.root / "runs/faster/evaluations/baseline")
    assert (report.taken_from, report.spending.tokens_sampled) == ("small", 0)
    assert "are those of small, asked under the same conditions" in said(ended)


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_without_prefects_results_the_files_say_what_is_done(place: Place, how: str) -> None:
    before = place.trained()
    evaluated = {path: path.stat().st_mtime_ns for path in place.run.glob("evaluations/*/*")}
    for result in place.warm.results.iterdir():
        if how == "deleted":
            result.unlink()
        else:
            result.write_text(result.read_text()[:-20] + "x" * 20)
    shutil.rmtree(place.root / ".visual-r1" / "baselines")
    ended = place.train(evaluation__samples=3)
    assert ended.status == 0, ended.output
    assert place.trained() == before
    assert {path: path.stat().st_mtime_ns for path in evaluated} == evaluated
    shared = (place.root / ".visual-r1" / "baselines").glob("*/*/report.json")
    assert [read_report(path.parent).taken_from for path in shared] == ["small"]


def test_a_run_is_evaluated_by_its_name_without_its_flags(place: Place) -> None:
    flags = ["--output-dir", place.root, "--run", "small", "--checkpoint", "best"]
    ended = place.warm.run(*flags, "--evaluation.problems", 8, flow="evaluate")
    assert ended.status == 0, ended.output
    assert "step-2: accuracy" in said(ended)
    report = read_report(place.run / "evaluations/step-2")
    assert report.n == 8
    stored = json.loads((place.run / "config.json").read_text())
    assert stored["evaluation"]["problems"] is None  # what was asked once is not the run's own
    refused = place.warm.run(*flags, "--train.seed", 3, flow="evaluate")
    assert "train.seed cannot be another for" in refused.sentence


def test_an_exported_adapter_answers_as_its_checkpoint_on_any_split(place: Place) -> None:
    flags = ["--output-dir", place.root, "--run", "small", "--split", "validation"]
    flags += ["--evaluation.samples", 0, "--evaluation.controls", "other_image"]
    ended = place.warm.run(*flags, "--checkpoint", "best", "--export", flow="evaluate")
    assert ended.status == 0, ended.output
    assert "step-2-validation: accuracy" in said(ended)
    adapter = place.run / "exports/step-2"
    ended = place.warm.run(*flags, "--adapter", adapter, flow="evaluate")
    assert ended.status == 0, ended.output
    [folder] = place.run.glob("evaluations/adapter-*-validation")
    there = place.run / "evaluations/step-2-validation"
    assert read_predictions(folder) == read_predictions(there)
    report = read_report(there)
    assert (report.conditions.split, report.k, report.conditions.template) == (
        "validation",
        0,
        "think",
    )
    assert report.controls is not None
    assert list(report.controls.by_name) == ["blind", "other_image"]
    # Another one beside it, and a split that there is not.
    refused = place.warm.run(*flags, "--adapter", place.root / "nowhere", flow="evaluate")
    assert "There is no adapter in" in refused.sentence


def test_a_checkpoint_is_exported_and_copied(place: Place, tmp_path: Path) -> None:
    ended = place.warm.run(place.run, "--into", tmp_path / "adapter", flow="export")
    assert ended.status == 0, ended.output
    own = place.run / "exports/step-2/adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "adapter" / name).read_bytes() == (own / name).read_bytes()
    refused = place.warm.run(place.run, "--checkpoint", 7, flow="export")
    assert "choose best, final, or one of the steps 2" in refused.sentence


def test_a_run_is_promoted_for_its_evidence_or_by_a_person(place: Place) -> None:
    there = {path.name for path in place.run.glob("evaluations/*")}
    ended = place.warm.run(place.run, "--name", "tiny", flow="promote")
    assert ended.status == 4, ended.output  # two steps, 24 problems
    assert "is not promoted over the base model" in said(ended)
    assert "accuracy has not risen beyond chance" in said(ended)
    # Its own evaluations are the evidence, and nothing is asked again.
    assert {path.name for path in place.run.glob("evaluations/*")} == there
    record = place.root / "models" / "tiny.json"
    assert not record.exists()
    why = ["--name", "tiny", "--force", "--because", "seen by eye"]
    ended = place.warm.run(place.run, *why, flow="promote")
    assert ended.status == 0, ended.output
    promoted = json.loads(record.read_text())
    assert (promoted["by"], promoted["because"], promoted["step"]) == ("person", "seen by eye", 2)
    assert promoted["evidence"]["accuracy"]["n"] == 24
    assert (place.root / promoted["adapter"] / "adapter_model.safetensors").is_file()

    ended = place.warm.run(place.root / "runs/faster", "--name", "tiny", flow="promote")
    assert ended.status == 4, ended.output
    assert "is not promoted over small, step 2" in said(ended)
    assert json.loads(record.read_text()) == promoted


def test_a_training_ends_with_its_promotion_where_that_is_wished(place: Place) -> None:
    ended = place.train(run__promote_as="nightly", evaluation__samples=3)
    assert ended.status == 0, ended.output  # the run itself is well
    assert "is not promoted over the base model" in said(ended)
