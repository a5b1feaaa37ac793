"""Rows that do not fit the served model: found when the run begins, left out, named."""

import base64
import json
import logging
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import tinker

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "data"))
from drawn import figure

from visual_r1.config import BackendSection, RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.doctor.examination import examine
from visual_r1.engine.launch import RunningEngine
from visual_r1.engine.server.sessions import new_session_id
from visual_r1.engine.store.records import model_id_of
from visual_r1.errors import DataError, RunError
from visual_r1.hashing import file_digest
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.left_out import is_settled, settle_rows
from visual_r1.runs.run import open_run
from visual_r1.runs.training_rows import LEFT_OUT_FILE, carried, training_problems

SPLITS = ("train", "validation", "test")


def line(split: str, number: int, *, long: bool) -> str:
    row: dict[str, Any] = {
        "id": f"{split}-{number}",
        "problem": f"Find angle {number} of {split}." + " Why?" * (5000 * long),
        "answer": str(number),
        "image": base64.b64encode(figure(number)).decode(),
    }
    return json.dumps(row)


def config_of(
    folder: Path,
    engine: RunningEngine,
    train: set[int],
    test: set[int],
    held: set[int],
    rows: int = 8,
) -> RunConfig:
    """A set whose rows of these numbers are too long."""
    folder.mkdir()
    for split, count, long in (("train", rows, train), ("validation", 4, held), ("test", 20, test)):
        lines = [line(split, number, long=number in long) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return RunConfig.model_validate(
        {
            "preset": "quickstart",
            "output_dir": folder / "out",
            "data": {"source": str(folder)},
            "backend": {"base_url": engine.url},
            "sampling": {"max_new_tokens": 24},
        }
    )


@pytest.fixture(autouse=True)
def key(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", engine.api_key)


def test_rows_of_train_are_left_out_and_those_of_test_stay(
    engine: RunningEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path / "set", engine, train={2, 5}, test={7}, held={1})
    config = config.model_copy(
        update={"validation": config.validation.model_copy(update={"every": 0})}
    )
    dataset = prepare(config.data, config.output_dir)
    with caplog.at_level(logging.WARNING), open_run(config, dataset) as run:
        settle_rows(run, SPLITS)
        said = [one.getMessage() for one in caplog.records]
        assert is_settled(config)
        settle_rows(run, SPLITS)
        assert [one.getMessage() for one in caplog.records] == said, "once a run"
    left = json.loads((config.run_dir / LEFT_OUT_FILE).read_text())
    assert [(row["place"], row["id"]) for row in left["left_out"]] == [
        (2, "train-2"),
        (5, "train-5"),
    ]
    assert (left["rows"], left["context"]) == (8, 4096)
    assert "more than the 4096 of the model's context" in left["left_out"][0]["why"]
    train, test = (next(one for one in said if f"rows of {split}" in one) for split in
                   ("train", "test"))  # fmt: skip
    assert "2 of 8 rows of train" in train and "'train-2': its prompt has" in train
    assert "1 of 20 rows of test" in test and "count there as failed" in test

    problems = training_problems(config, dataset, None)
    assert [one.id for one in problems] == [f"train-{n}" for n in (0, 1, 3, 4, 6, 7)]
    assert problems[2].id == "train-3" and problems.ids() == [one.id for one in problems]
    assert problems[-1].id == "train-7"
    assert len(problems.families()) == len(problems) == 6
    carry = carried(problems, dataset)
    assert carry == {"left_out": "2"}
    path = config.run_dir / LEFT_OUT_FILE
    row = LedgerRow(
        step=4, state_path="tinker://a", sampler_path="tinker://b", expires_at=None,
        config_digest="", dataset_digest=dataset.digest, backend="embedded", created_at="",
        updates=4, carry=carry, digests={LEFT_OUT_FILE: file_digest(path)},
    )  # fmt: skip
    assert len(training_problems(config, dataset, row)) == 6
    whole = path.read_text()
    path.write_text(whole.replace('"place": 2', '"place": 3'))
    with pytest.raises(RunError, match="put it back"):
        training_problems(config, dataset, row)
    path.unlink()
    with pytest.raises(RunError, match="put the file back"):
        training_problems(config, dataset, row)
    path.write_text("{}")
    with pytest.raises(RunError, match="cannot be read"):
        training_problems(config, dataset, row)


@pytest.mark.parametrize(
    ("train", "test", "held", "says"),
    [
        (set(range(8)), set[int](), set[int](), "8 of 8 rows of train .* none is left"),
        (set[int](), {1, 2, 3}, set[int](), "3 of 20 rows of test .* more than 10%"),
        (set[int](), set[int](), {1}, "1 of 4 rows of validation .* more than 10%"),
    ],
)
def test_a_run_with_too_few_is_refused_before_anything_is_asked(
    engine: RunningEngine,
    tmp_path: Path,
    train: set[int],
    test: set[int],
    held: set[int],
    says: str,
) -> None:
    config = config_of(tmp_path / "set", engine, train, test, held)
    dataset = prepare(config.data, config.output_dir)
    with open_run(config, dataset) as run, pytest.raises(DataError, match=f"(?s){says}") as caught:
        settle_rows(run, SPLITS)
    assert "lower --model.max_pixels" in str(caught.value)
    assert not is_settled(config)


def test_the_doctor_knows_of_a_row_however_far_behind_it_is(
    engine: RunningEngine, tmp_path: Path
) -> None:
    """It looks at the first rows of a source that nobody prepared, and says so."""
    config = config_of(tmp_path / "set", engine, {70}, set(), set(), rows=72)
    [note] = [one for one in examine(config, measure=False).diagnoses if one.subject == "rows"]
    assert (note.severity, note.says) == (
        "note",
        "the dataset is not prepared: every row is looked at when the run starts",
    )
    prepare(config.data, config.output_dir)
    [found] = [one for one in examine(config, measure=False).diagnoses if one.subject == "rows"]
    assert found.severity == "warning"
    assert "1 of 72 rows of train cannot be asked about: 'train-70': its prompt has" in found.says
    assert "left out of training" in found.advice


def test_where_all_fits_nothing_is_carried(engine: RunningEngine, tmp_path: Path) -> None:
    config = config_of(tmp_path / "set", engine, set(), set(), set())
    dataset = prepare(config.data, config.output_dir)
    with open_run(config, dataset) as run:
        settle_rows(run, SPLITS)
    problems = training_problems(config, dataset, None)
    assert carried(problems, dataset) == {}
    assert [one.id for one in problems] == [one.id for one in dataset.problems("train")]


def test_an_engine_that_dies_over_a_question_is_asked_again(
    engine: RunningEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that needs no session, which would be begun again: how long a context may be, and whether
    a checkpoint is there."""
    given = config_of(tmp_path / "set", engine, train={2}, test=set(), held=set())
    config = given.model_copy(update={"backend": BackendSection(server="embedded")})
    dataset = prepare(config.data, config.output_dir)

    def kill_at(question: str) -> None:
        """When it is asked for the first time."""
        ask, killed = getattr(tinker.RestClient, question), list[int]()

        def ask_and_kill(client: tinker.RestClient, *about: str) -> Any:
            for child in psutil.Process().children() if not killed else ():
                if str(config.state_dir) in " ".join(child.cmdline()):
                    killed.append(child.pid)
                    child.kill()
            assert killed
            return ask(client, *about)

        monkeypatch.setattr(tinker.RestClient, question, ask_and_kill)

    with caplog.at_level(logging.WARNING), open_run(config, dataset) as run:
        kill_at("get_server_capabilities")
        settle_rows(run, SPLITS)
        kill_at("get_weights_info_by_tinker_path")
        path = f"tinker://{model_id_of(new_session_id(), 0)}/weights/last"
        assert not run.backend.has_checkpoint(path)
    assert "Recovering: the look at the rows is begun again" in caplog.text
    assert f"Recovering: looking up {path} is begun again" in caplog.text
    assert json.loads((config.run_dir / LEFT_OUT_FILE).read_text())["context"] == 4096
