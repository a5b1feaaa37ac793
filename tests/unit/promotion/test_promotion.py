"""When a candidate is promoted, what is kept of it, and the ways back."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import answer, conditions, predictions, problems, write_evaluation

from visual_r1.errors import ConfigError, DataError, RunError
from visual_r1.evaluation.metrics import read_report
from visual_r1.evaluation.prediction import Prediction
from visual_r1.exports.record import Export, ExportedFile, file_sha256
from visual_r1.promotion.judgement import Evidence, free_name, of_weights, weigh
from visual_r1.promotion.models import Models, require_reason
from visual_r1.storage import read_sealed

ASKED = problems(60)


def made(right: int, blind: int = 2) -> list[Prediction]:
    """So many of the sixty right, and so many of them without the image."""
    return [
        replace(
            one,
            greedy=answer(place < right),
            blind=answer(place < blind),
        )
        for place, one in enumerate(predictions(ASKED, 0.5, seed=0))
    ]


def weighed(tmp_path: Path, before: Sequence[Prediction], after: Sequence[Prediction]) -> Evidence:
    for name, those in (("before", before), ("after", after)):
        write_evaluation(tmp_path / name, ASKED, those, sampler_path=f"tinker://{name}")
    return weigh(tmp_path / "before", tmp_path / "after", "the base model")


def test_a_gain_beyond_chance_with_the_image_alone_has_no_objection(tmp_path: Path) -> None:
    evidence = weighed(tmp_path, made(20), made(40))
    assert evidence.objections == []
    assert (evidence.accuracy.gained, evidence.accuracy.lost) == (20, 0)
    assert evidence.accuracy.delta_ci95[0] > 0
    assert len(evidence.digests) == 4


@pytest.mark.parametrize(
    ("after", "blind", "sentence"),
    [
        (24, 2, "accuracy has not risen beyond chance (33.3% to 40.0%"),
        (20, 2, "accuracy has not risen beyond chance"),
        (5, 2, "accuracy has not risen beyond chance"),
        (40, 10, "accuracy rose without the image as well (3.3% to 16.7%"),
        (26, 8, "accuracy rose without the image as well"),
    ],
)
def test_what_speaks_against_it_is_a_sentence(
    tmp_path: Path, after: int, blind: int, sentence: str
) -> None:
    objections = weighed(tmp_path, made(20), made(after, blind)).objections
    assert any(one.startswith(sentence) for one in objections), objections


def test_a_gain_that_is_there_without_the_image_is_none_of_seeing(tmp_path: Path) -> None:
    """Though nobody could tell the blind one from chance: eight gained, two lost."""
    after = [replace(one, blind=answer(2 <= place < 10)) for place, one in enumerate(made(26))]
    evidence = weighed(tmp_path, made(20), after)
    assert evidence.blind is not None
    assert not evidence.blind.rose
    [objection] = evidence.objections
    assert objection.startswith("accuracy rose without the image as well")


def test_without_the_blind_control_nobody_can_say(tmp_path: Path) -> None:
    unseen = [replace(one, blind=None) for one in made(40)]
    [objection] = weighed(tmp_path, made(20), unseen).objections
    assert "evaluation.blind" in objection


def test_other_problems_or_conditions_cannot_be_compared(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "before", ASKED, made(20))
    write_evaluation(tmp_path / "after", ASKED[:30], made(20)[:30])
    with pytest.raises(DataError, match="not asked about the same problems"):
        weigh(tmp_path / "before", tmp_path / "after", "the base model")
    for other in ({"dataset_digest": "other"}, {"thinking": "on"}):
        write_evaluation(tmp_path / "after", ASKED, made(20), **other)
        with pytest.raises(DataError, match="not asked about the same problems"):
            weigh(tmp_path / "before", tmp_path / "after", "the base model")


def test_an_evaluation_of_the_same_weights_is_found_whatever_its_name(tmp_path: Path) -> None:
    write_evaluation(tmp_path, ASKED, made(20), sampler_path="tinker://mine", k=8)
    reports = {"step-4": read_report(tmp_path)}
    assert of_weights(reports, "tinker://mine", conditions(k=2), 60) == "step-4"
    assert of_weights(reports, "tinker://other", conditions(), 60) is None
    assert of_weights(reports, "tinker://mine", conditions(max_new_tokens=7), 60) is None
    assert of_weights(reports, "tinker://mine", conditions(), 30) is None


def test_one_of_an_older_grader_stays_and_the_new_one_has_another_name(tmp_path: Path) -> None:
    write_evaluation(tmp_path, ASKED, made(20), grader_version="6")
    reports = {"step-4": read_report(tmp_path)}
    assert free_name(reports, "step-4", conditions(grader_version="7")) == "step-4-grader-7"
    assert free_name(reports, "step-4", conditions(grader_version="6")) == "step-4"
    assert free_name(reports, "step-5", conditions(grader_version="7")) == "step-5"


class Made:
    """A folder with runs whose adapters were exported, and the models of one name."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.models = Models(output_dir, "geometry")

    def promote(self, run: str, evidence: Evidence | None = None) -> int:
        run_dir = self.output_dir / "runs" / run
        adapter = run_dir / "exports/step-4/adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        weights = adapter / "adapter_model.safetensors"
        weights.write_bytes(run.encode())
        files = (ExportedFile(weights.name, len(run), file_sha256(weights)),)
        paths = (f"tinker://{run}/sampler", f"tinker://{run}/state")
        exported = Export(4, 4, True, "tiny", "adapter", *paths, files, "2026-05-01T10:00:00+00:00")
        promoted = self.models.promote(
            run_dir, exported, "exports/step-4", evidence, "evidence", "it is better"
        )
        return promoted.number


@pytest.fixture
def here(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_the_record_says_what_where_why_and_by_whom(here: Made, tmp_path: Path) -> None:
    evidence = weighed(tmp_path / "evaluations", made(20), made(40))
    here.promote("first", evidence)
    path = tmp_path / "models" / "geometry.json"
    assert read_sealed(path).is_sealed
    record = json.loads(path.read_text())
    assert (record["run"], record["step"], record["number"]) == ("runs/first", 4, 1)
    assert record["adapter"] == "runs/first/exports/step-4/adapter"
    assert record["evidence"]["accuracy"]["gained"] == 20
    assert record["evidence"]["blind"]["n"] == 60
    assert "@" in record["who"]
    current = here.models.current()
    assert current is not None
    assert current.evidence == evidence


def test_what_was_current_stays_findable_and_can_be_current_again(here: Made) -> None:
    for number, run in enumerate(("first", "second", "third"), start=1):
        assert here.promote(run) == number
    assert [one.run for one in here.models.before()] == ["runs/first", "runs/second"]
    back = here.models.roll_back("the demo was wrong")
    assert (back.run, back.number, back.by) == ("runs/second", 4, "rollback")
    assert back.because == "number 2 again: the demo was wrong"
    back = here.models.roll_back("")
    assert (back.run, back.number) == ("runs/first", 5)
    with pytest.raises(RunError, match="no model geometry before the current one"):
        here.models.roll_back("")
    assert here.promote("fourth") == 6
    assert here.models.roll_back("").run == "runs/third"
    assert [one.number for one in here.models.before()] == [1, 2, 3, 4, 5, 6]


def test_one_that_is_taken_back_leaves_none_and_can_be_put_back(here: Made) -> None:
    here.promote("first")
    assert here.models.demote().run == "runs/first"
    assert here.models.current() is None
    with pytest.raises(RunError, match="no model of that name is current"):
        here.models.demote()
    assert here.models.roll_back("").run == "runs/first"


def test_going_back_undoes_a_demotion_first_and_then_goes_further_back(here: Made) -> None:
    here.promote("first")
    here.promote("second")
    here.models.demote()
    assert [here.models.roll_back("").run for _ in range(2)] == ["runs/second", "runs/first"]


@pytest.mark.parametrize("other", [None, b"FIRST"], ids=["gone", "of the same size"])
def test_an_adapter_that_is_not_there_any_more_is_not_gone_back_to(
    here: Made, tmp_path: Path, other: bytes | None
) -> None:
    here.promote("first")
    here.promote("second")
    weights = tmp_path / "runs/first/exports/step-4/adapter/adapter_model.safetensors"
    if other is None:
        weights.unlink()
    else:  # the run went back and trained that step again
        weights.write_bytes(other)
    with pytest.raises(RunError, match="visual-r1 export runs/first --checkpoint 4"):
        here.models.roll_back("")
    current = here.models.current()
    assert current is not None
    assert current.run == "runs/second"


def test_a_damaged_record_is_a_sentence(here: Made) -> None:
    here.promote("first")
    text = here.models.path.read_text()
    here.models.path.write_text(text.replace('"step": 4', '"step": 5'))
    with pytest.raises(DataError, match="is damaged"):
        here.models.current()


def test_two_at_once_are_refused(here: Made) -> None:
    other = Models(here.output_dir, "geometry")
    with (
        here.models.alone(),
        pytest.raises(RunError, match="Another process promotes"),
        other.alone(),
    ):
        pytest.fail("both have it")


def test_a_run_that_ends_waits_for_the_promotion_of_another(
    here: Made, caplog: pytest.LogCaptureFixture
) -> None:
    other, done = Models(here.output_dir, "geometry"), list[str]()

    def wait() -> None:
        with other.alone(wait=True):
            done.append("other")

    with here.models.alone():
        thread = threading.Thread(target=wait)
        thread.start()
        while "waited for" not in caplog.text:
            time.sleep(0.01)
        done.append("first")
    thread.join()
    assert done == ["first", "other"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_what_can_be_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a model"):
        Models(tmp_path, name)


def test_a_person_who_decides_says_why() -> None:
    require_reason(force=True, because="seen by eye")
    with pytest.raises(ConfigError, match="--because"):
        require_reason(force=True, because=" ")
    with pytest.raises(ConfigError, match="--force"):
        require_reason(force=False, because="seen by eye")
