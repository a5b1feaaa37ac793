"""A run in a notebook: frames as docs/notebook.md says, figures that show themselves, one sentence
where something is damaged, and nothing heavy before it is needed."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import (
    conditions,
    predictions,
    problems,
    with_scans,
    write_evaluation,
    write_validation,
)
from PIL import Image
from sampled import group_of, rollout

import visual_r1
from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.config.overrides import with_overrides
from visual_r1.errors import DataError, RunError
from visual_r1.notebook import OpenedRun
from visual_r1.report.summary import summarize
from visual_r1.rl.metrics import StepTimer, step_metrics
from visual_r1.rl.step import ScoredRollout, StepResult
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.folder import only_process, open_run_folder
from visual_r1.runs.journal import Journal, rollout_table
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.tables import pa, write_table

PAGE = Path(__file__).parents[3] / "docs" / "notebook.md"
HOSTILE = '<img src=x onerror="alert(1)">'


def result(step: int) -> StepResult:
    samples = [
        rollout(0.5, "right", sample=0, components={"format": 1.0, "accuracy": 1.0}),
        rollout(0.0, "gave_up", sample=1, stop_reason="length"),
    ]
    timer = StepTimer()
    timer.seconds.update(sample=2.0, first_pass=2.0, train=1.0)
    config = RunConfig(preset="quickstart")
    metrics = step_metrics(config, step, [group_of(*samples)], [], None, seconds=timer.row())
    return StepResult(metrics, tuple(ScoredRollout(one, 1.0) for one in samples))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with a row or more in each of its files."""
    config = with_overrides(
        "quickstart", {"run.name": "one", "train.steps": 4, "output_dir": str(tmp_path)}
    )
    asked = problems(12)
    with open_run_folder(config) as run_dir:
        for name, accuracy in (("baseline", 0.3), ("final", 0.9)):
            made = with_scans(predictions(asked, accuracy, seed=1), accuracy, seed=2)
            made[0] = replace(made[0], greedy=None, second=None, failures={"greedy": "it failed"})
            write_evaluation(run_dir / "evaluations" / name, asked, made)
        journal = Journal(run_dir)
        for chunk in range(2):
            results = [result(step) for step in (2 * chunk, 2 * chunk + 1)]
            for one in results:
                journal.append(one.metrics)
            journal.write_rollouts(chunk, [rollout_table(results)])
        for step in (0, 2, 4):
            write_validation(run_dir, step, 0.5)
        row = LedgerRow(
            4, "tinker://a", conditions().sampler_path, None, config.digest(), "d", "embedded",
            "2026-03-01T12:00:00+00:00", 4,
        )  # fmt: skip
        Ledger(run_dir).append(row)
        AlarmLog(run_dir).add([Finding("entropy", 1, 2, "warn", "Seen.", "Means.", "Advice.")])
        summarize(run_dir, steps=4, wall_seconds=20)
    return run_dir


def documented(section: str) -> dict[str, str]:
    """Column to dtype, by the page's table under that heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            names, dtype = line.split("|")[1:3]
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", names), dtype.strip())
    return found


def frames(run: OpenedRun) -> dict[str, object]:
    return {
        "rollouts": run.rollouts(),
        "predictions": run.predictions("final", images=True),
        "evaluations": run.evaluations(),
        "families": run.families("final"),
        "validations": run.validations(),
        "ledger": run.ledger(),
        "alarms": run.alarms(),
    }


@pytest.mark.parametrize("name", ["rollouts", "predictions", "evaluations", "families",
                                  "validations", "ledger", "alarms"])  # fmt: skip
def test_the_page_has_every_column_of_the_frames_with_its_type(folder: Path, name: str) -> None:
    frame = frames(visual_r1.open_run(folder))[name]
    written = {
        re.sub(r"^reward_.+", "reward_<component>", column): str(dtype)
        for column, dtype in frame.dtypes.items()  # type: ignore[attr-defined]
    }
    assert written == documented(name)
    assert len(frame) > 0  # type: ignore[arg-type]


def test_the_types_are_the_same_where_nothing_is_there(folder: Path) -> None:
    full = visual_r1.open_run(folder)
    types = {name: full_frame.dtypes for name, full_frame in frames(full).items()}  # type: ignore[attr-defined]
    (folder / "alarms.jsonl").unlink()
    (folder / "ledger.jsonl").unlink()
    (folder / "validation.jsonl").unlink()
    run = visual_r1.open_run(folder)
    for name in ("alarms", "ledger", "validations"):
        empty = frames(run)[name]
        assert len(empty) == 0  # type: ignore[arg-type]
        assert empty.dtypes.astype(str).equals(types[name].astype(str))  # type: ignore[attr-defined]


def test_values_are_those_of_the_files(folder: Path) -> None:
    run = visual_r1.open_run(folder)
    metrics = run.metrics()
    assert list(metrics.step) == [0, 1, 2, 3]
    assert str(metrics.step.dtype) == "int64"
    assert str(metrics.updated.dtype) == "boolean"
    rollouts = run.rollouts(["step", "reward", "verdict"])
    assert list(rollouts.columns) == ["step", "reward", "verdict"]
    assert len(rollouts) == 8
    assert rollouts.reward.sum() == pytest.approx(2.0)
    final = run.predictions("final")
    assert "images" not in final
    assert final.correct.isna().sum() == 1, "what failed is missing, and not wrong"
    assert final.correct.mean() == pytest.approx(
        run.evaluations().set_index("evaluation").accuracy["final"]
    )
    [pictures] = run.predictions("final", images=True).images[:1]
    assert isinstance(pictures[0], Image.Image)
    assert run.pictures(final.id[3])[0].size == (96, 96)
    with pytest.raises(RunError, match="not there: prepare it again"):
        run.pictures("no-such-problem")


def test_figures_show_themselves_and_are_files(folder: Path, tmp_path: Path) -> None:
    run = visual_r1.open_run(folder)
    assert {"accuracy", "reward", "validation", "timeline"} <= set(run.figures)
    figure = run.figures["timeline"]
    root = ET.fromstring(figure._repr_svg_())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "sampling, the first pass 66.7%" in figure._repr_svg_()
    assert figure._repr_html_().count("data:image/svg+xml;base64,") == 1
    assert "<style" not in figure._repr_html_(), "its colours stay within the picture"
    saved = figure.save(tmp_path / "time.svg")
    assert saved.read_text() == figure.svg
    with pytest.raises(RunError, match=r"time\.svg"):
        figure.save(tmp_path / "time.png")
    with pytest.raises(RunError, match="there are accuracy"):
        run.figures["accurcy"]


def test_the_run_shows_what_it_came_to_and_text_stays_text(folder: Path) -> None:
    run = visual_r1.open_run(folder)
    shown = run._repr_html_()
    assert run.summary is not None
    assert run.summary.conclusion in shown
    assert "image blanked" in shown
    assert repr(run) == "<run one: ended, step 4 of 4>"
    assert "As of step" not in shown
    row = Ledger(folder).rows()[-1]
    Ledger(folder).append(replace(row, step=6, sampler_path="tinker://6"))
    assert "As of step 4, from where the run has gone on or back: " in run._repr_html_()
    content = json.loads((folder / "summary.json").read_text())
    content.pop("checksum")
    (folder / "summary.json").write_text(json.dumps(content | {"conclusion": HOSTILE}))
    assert HOSTILE not in run._repr_html_()
    (folder / "summary.json").unlink()
    assert "baseline" in run._repr_html_()


def test_a_run_that_trains_is_followed_and_its_half_written_row_waited_for(folder: Path) -> None:
    run = visual_r1.open_run(folder)
    with only_process(folder):
        assert run.state.name == "evaluating", "all its steps are in the ledger"
        Journal(folder).append(result(4).metrics)
        with (folder / "metrics.jsonl").open("a") as out:
            out.write('{"step": 5, "upda')
        assert list(run.metrics().step) == [0, 1, 2, 3, 4]
    with pytest.raises(RunError, match="row 6 is damaged"):
        run.metrics()


def test_a_run_of_an_older_version_opens(folder: Path) -> None:
    """Rows without later keys, and rollouts without later columns."""
    path = folder / "rollouts" / "chunk-00000.parquet"
    write_table(path, pa.table({"step": pa.array([0], pa.int32()), "response": ["x"]}))
    rows = [{"step": 0, "updated": True}, {"step": 1, "updated": False, "accuracy": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = visual_r1.open_run(folder)
    assert run.metrics().accuracy.isna().tolist() == [True, False]
    found = run.rollouts(["step", "response", "verdict"])
    assert found.verdict.isna().tolist() == [True, False, False, False, False]


def test_what_is_damaged_or_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    run = visual_r1.open_run(folder)
    with pytest.raises(RunError, match="There is no run"):
        visual_r1.open_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"'finl'.*baseline, final"):
        run.predictions("finl")
    with pytest.raises(RunError, match=r"no column rewards.*reward"):
        run.rollouts(["rewards"])
    with pytest.raises(RunError, match=r"give \['reward'\] in place of 'reward'"):
        run.rollouts("reward")
    for name in ("ledger", "validation", "alarms", "metrics"):
        path = folder / f"{name}.jsonl"
        path.write_text(path.read_text().replace('": ', '":  ', 1))
    for frame in (run.ledger, run.validations, run.alarms, run.metrics):
        with pytest.raises(RunError, match="row 1 is damaged"):
            frame()
    chunk = folder / "rollouts" / "chunk-00001.parquet"
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(RunError, match=r"chunk-00001\.parquet cannot be read"):
        run.rollouts()
    stored = folder / "evaluations" / "final" / "predictions.parquet"
    stored.write_bytes(b"PAR1" + stored.read_bytes()[4:-9] + b"12345PAR1")
    with pytest.raises(DataError, match=r"predictions\.parquet"):
        run.predictions("final")


def test_importing_the_package_loads_nothing_of_weight(folder: Path) -> None:
    heavy = {"pandas", "torch", "tinker", "transformers", "datasets", "pydantic", "numpy", "PIL"}
    said = subprocess.run(
        [sys.executable, "-c",
         "import sys, visual_r1\n"
         "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
         f"visual_r1.open_run({str(folder)!r})\n"
         "print('pandas' in sys.modules)"],
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout.splitlines()  # fmt: skip
    assert not heavy & set(said[0].split())
    assert said[1] == "False", "no frame was asked for"
