"""A cold start chunk by chunk, broken and gone on with, and reinforcement from where it ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from solved import response, write_solved

from trials.train_chunks import config as chunks_config
from visual_r1.backend.backend import Backend, open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import prepare
from visual_r1.data.problem import Problem
from visual_r1.errors import ConfigError, DataError, RunError
from visual_r1.progress import Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.left_out import settle_rows
from visual_r1.runs.origin import origin_of
from visual_r1.runs.proof import prove
from visual_r1.runs.resume import resume_point
from visual_r1.runs.run import Run
from visual_r1.runs.soundness import examine_run
from visual_r1.runs.start import settle_start, with_start
from visual_r1.runs.training_rows import LEFT_OUT_FILE, training_problems
from visual_r1.runs.validate import validate
from visual_r1.sft.settings import require_reinforcement, supervised
from visual_r1.storage import read_sealed, write_json

STEPS = 4


class Broken(Exception):
    """A process that ends in the middle of a step's chunk."""


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_solved(tmp_path_factory.mktemp("solved") / "data", without=[5])


def settings(folder: Path, source: Path, name: str, **more: Mapping[str, Any]) -> RunConfig:
    base = chunks_config(folder)
    values: dict[str, Any] = {
        "preset": "quickstart",
        "output_dir": folder,
        "run": {"name": name},
        "backend": base.backend.model_dump(),
        "data": {"source": str(source), "columns": {"keep": "response"}},
        "train": {"steps": STEPS, "chunk_steps": 2, "batch_size": 4, "group_size": 2},
        "validation": {"every": 1, "problems": None, "blind": False},
    }
    for section, settings in more.items():
        values[section] = {**values.get(section, {}), **settings}
    return RunConfig.model_validate(values)


class Training:
    """A run of the library, as the flow goes through it."""

    def __init__(self, config: RunConfig, backend: Backend) -> None:
        self.config = config
        dataset = prepare(config.data, config.output_dir)
        self.run = Run(config, config.run_dir, dataset, backend, Silent())

    def go(self, breaks_at: int | None = None) -> LedgerRow:
        """From wherever it is to its end, or until it breaks behind a step."""

        def told(row: Mapping[str, Any]) -> None:
            if row["step"] == breaks_at:
                raise Broken

        with open_run_folder(self.config):
            settle_start(self.run)
            settle_rows(self.run, ["train"])
            row = resume_point(self.run)
            validate(self.run, row)
            while row is None or row.step < self.config.train.steps:
                row = train_chunk(self.run, row, told)
                validate(self.run, row)
            return row

    @property
    def metrics(self) -> list[dict[str, Any]]:
        rows = Journal(self.config.run_dir).rows()
        return [
            {name: value for name, value in row.items() if not name.startswith("seconds")}
            for row in rows
        ]

    def tensors(self, row: LedgerRow) -> dict[str, str]:
        return self.run.backend.tensor_fingerprints(row.state_path)


@pytest.fixture(scope="module")
def cold(folder: Path, solved: Path, backend: Backend) -> Training:
    run = Training(supervised(settings(folder, solved, "cold")), backend)
    run.go()
    return run


def test_the_loss_falls_on_what_is_learnt_and_on_what_is_held_out(cold: Training) -> None:
    first, *_, last = cold.metrics
    assert last["response_loss"] < first["response_loss"]
    assert last["held_out_loss"] < first["held_out_loss_before"]
    assert all(row["updated"] and row["optimizer_steps"] == 1 for row in cold.metrics)
    assert [("held_out_loss" in row) for row in cold.metrics] == [False, True] * (STEPS // 2)
    assert all(row["tokens_sampled"] == 0 < row["tokens_trained"] for row in cold.metrics)


def test_a_row_without_a_response_is_left_out_and_named(cold: Training) -> None:
    left = (cold.config.run_dir / "left_out.json").read_text()
    assert "it has no response (sft.responses response)" in left
    assert all(row.carry["left_out"] == "1" for row in Ledger(cold.config.run_dir).rows())


def test_broken_in_a_chunk_it_ends_with_the_same_bits(
    folder: Path, solved: Path, backend: Backend, cold: Training
) -> None:
    again = Training(supervised(settings(folder, solved, "cold-again")), backend)
    with pytest.raises(Broken):
        again.go(breaks_at=2)
    end = again.go()
    assert again.tensors(end) == cold.tensors(Ledger(cold.config.run_dir).rows()[-1])
    assert again.metrics == cold.metrics
    assert all(one.verdict == "sound" for one in examine_run(cold.config.run_dir, None))
    with open_run_folder(again.config):
        assert prove(again.run).holds


@pytest.fixture(scope="module")
def further(folder: Path, solved: Path, backend: Backend, cold: Training) -> Training:
    """Reinforcement on the same problems, from where the cold start ended."""
    wanted = settings(
        folder, solved, "further", model={"start_from": "cold"}, reward={"random": 1.0}
    )
    run = Training(with_start(wanted), backend)
    run.go()
    return run


def test_reinforcement_begins_where_the_cold_start_ended(cold: Training, further: Training) -> None:
    last = Ledger(cold.config.run_dir).rows()[-1]
    assert further.config.model.start_from == last.state_path
    before, after = cold.run.validations.rows()[-1], further.run.validations.rows()[0]
    assert (after.step, after.n) == (0, before.n)
    assert after.right == before.right
    assert after.accuracy == before.accuracy
    assert all(row.started_from == last.state_path for row in Ledger(further.config.run_dir).rows())
    origin = origin_of(further.config.run_dir)
    assert origin is not None and str(origin) == f"cold, step {STEPS}, without its optimizer"
    files = {one.file.name: one.verdict for one in examine_run(further.config.run_dir, None)}
    assert files["start.json"] == "sound"


def test_what_it_starts_from_belongs_to_what_a_run_is(
    folder: Path, solved: Path, cold: Training, further: Training
) -> None:
    anew = settings(folder, solved, "anew")
    earlier = with_start(settings(folder, solved, "earlier", model={"start_from": "cold@2"}))
    digests = {one.digest() for one in (anew, earlier, further.config)}
    assert len(digests) == 3
    # Without it a run is called as it was before there was such a setting.
    assert not {"start_from", "start_optimizer"} & anew.identity()["model"].keys()
    assert "sft" not in anew.identity()


def test_a_run_that_started_elsewhere_is_broken_and_gone_on_with_to_the_same_bits(
    folder: Path, solved: Path, backend: Backend, further: Training
) -> None:
    wanted = further.config.model_copy(
        update={"run": further.config.run.model_copy(update={"name": "further-again"})}
    )
    again = Training(wanted, backend)
    for step in (0, 2):
        with pytest.raises(Broken):
            again.go(breaks_at=step)
    end = again.go()
    assert again.tensors(end) == further.tensors(Ledger(further.config.run_dir).rows()[-1])
    assert again.metrics == further.metrics


def test_the_optimizer_comes_along_where_it_is_asked_for(
    folder: Path, solved: Path, backend: Backend, cold: Training, further: Training
) -> None:
    model = {"start_from": "cold@final", "start_optimizer": True}
    wanted = settings(
        folder, solved, "with-moments", model=model, reward={"random": 1.0}, train={"steps": 2}
    )
    end = Training(with_start(wanted), backend).go()
    without = Ledger(further.config.run_dir).at_step(2)
    assert without is not None
    other, ours = (
        backend.tensor_fingerprints(without.state_path),
        backend.tensor_fingerprints(end.state_path),
    )
    assert other.keys() == ours.keys() and other != ours


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        ({"start_from": "cold", "lora_rank": 4}, ConfigError, r"model\.lora_rank 16"),
        ({"start_from": "cold", "train_mlp": False}, ConfigError, r"model\.train_mlp True"),
        ({"start_from": "cold@3"}, RunError, "no checkpoint '3'"),
        ({"start_from": "colt"}, RunError, "did you mean cold"),
        ({"start_from": "tinker://gone:train:0/weights/x"}, RunError, "is not on the embedded"),
        ({"start_from": "tinker://gone:train:0/x"}, ConfigError, "no address of a checkpoint"),
        ({"start_from": "tinker://a:train:0/sampler_weights/x"}, ConfigError, "sample from alone"),
    ],
)
def test_a_start_that_cannot_be_is_one_sentence_before_anything_is_spent(
    folder: Path,
    solved: Path,
    backend: Backend,
    cold: Training,
    model: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        Training(with_start(settings(folder, solved, "never", model=model)), backend).go()
    assert not (folder / "runs/never").exists()


def test_a_start_of_another_base_model_is_refused(
    folder: Path, solved: Path, backend: Backend, cold: Training
) -> None:
    wanted = with_start(settings(folder, solved, "never", model={"start_from": "cold"}))
    run = Training(wanted, backend).run
    other = wanted.model_copy(
        update={"model": wanted.model.model_copy(update={"name": "Qwen/Qwen3.5-4B"})}
    )
    with open_backend(wanted), pytest.raises(ConfigError, match=r"model\.name visual-r1/tiny"):
        settle_start(Run(other, run.folder, run.dataset, run.backend, run.progress))


def test_each_kind_of_run_is_started_by_its_own_flow(folder: Path, solved: Path) -> None:
    plain = settings(folder, solved, "plain")
    assert require_reinforcement(plain) is plain
    with pytest.raises(ConfigError, match=r"flows/sft_flow\.py"):
        require_reinforcement(supervised(plain))


def test_data_without_any_response_are_refused(
    folder: Path, solved: Path, backend: Backend
) -> None:
    wanted = settings(folder, solved, "never", sft={"responses": "meta.solution"})
    with pytest.raises(DataError, match="it has no response") as said:
        Training(wanted, backend).go()
    assert "name another column with --sft.responses" in str(said.value)
    assert "max_pixels" not in str(said.value)


def look_at(run: Training) -> None:
    with open_run_folder(run.config):
        settle_rows(run.run, ["train"])


def bare(problem: Problem) -> str:
    return problem.meta["solution"]


def test_responses_without_the_form_of_the_template_are_refused_unless_they_are_meant(
    folder: Path, backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_solved(tmp_path / "bare", respond=bare)
    wanted = settings(folder, source, "bare")
    with pytest.raises(DataError, match=r"of 24 responses 24 have not the form <think>.*any_form"):
        look_at(Training(supervised(wanted), backend))
    meant = settings(folder, source, "meant", sft={"any_form": True})
    look_at(Training(supervised(meant), backend))
    assert "24 have no answer that the grader finds" in caplog.text


def test_wrong_answers_are_learnt_with_a_word_about_them(
    folder: Path, backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_solved(
        tmp_path / "wrong", respond=lambda _: "<think>I cannot see.</think><answer>1</answer>"
    )
    look_at(Training(supervised(settings(folder, source, "wrong")), backend))
    assert "of 24 responses 24 have another answer than the gold one" in caplog.text


def test_a_chat_in_place_of_a_text_is_called_one(
    folder: Path, backend: Backend, tmp_path: Path
) -> None:
    source = write_solved(
        tmp_path / "chat",
        respond=lambda problem: [{"role": "assistant", "content": response(problem)}],
    )
    with pytest.raises(DataError, match="its response is a chat of messages and no text"):
        look_at(Training(supervised(settings(folder, source, "chat")), backend))


def test_worked_solutions_are_learnt_in_tags_and_bare_where_a_run_began_so(
    folder: Path, backend: Backend
) -> None:
    """`left_out.json` says so of a run: one of an earlier version ends as it began."""
    drawn = {"source": "procedural", "train": 8, "validation": 8, "test": 8, "columns": {}}
    runs: dict[str, Training] = {}
    for name in ("tagged", "earlier"):
        wanted = settings(folder, Path("x"), name, data=drawn, sft={"responses": "meta.solution"})
        runs[name] = Training(supervised(wanted), backend)
        look_at(runs[name])
    path = runs["earlier"].config.run_dir / LEFT_OUT_FILE
    content = read_sealed(path).content
    assert content.pop("in_tags")
    write_json(path, content)
    ends = {name: run.go() for name, run in runs.items()}
    tagged, earlier = (runs[name].metrics[0] for name in runs)
    assert tagged["response_tokens_mean"] > earlier["response_tokens_mean"] + 2
    assert tagged["held_out_loss_before"] < earlier["held_out_loss_before"]
    assert LEFT_OUT_FILE in ends["tagged"].digests
    assert LEFT_OUT_FILE not in ends["earlier"].digests
    path = runs["tagged"].config.run_dir / LEFT_OUT_FILE
    path.unlink()
    with pytest.raises(RunError, match="put the file back"):
        training_problems(runs["tagged"].config, runs["tagged"].run.dataset, ends["tagged"])
