"""The list of runs: state, accuracy and cost, the newest first, a hundred of them quickly."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up import conditions, predictions, problems, spend, write_evaluation, write_metrics

from flows.runs import age, main, print_runs
from visual_r1.config.overrides import with_overrides
from visual_r1.printing import Terminal
from visual_r1.report.summary import summarize
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.listing import runs_in

ASKED = problems(6)
WEIGHTS = conditions().sampler_path


def make(output_dir: Path, name: str, *, ended: bool = True) -> Path:
    given = {"run.name": name, "train.steps": 4, "output_dir": str(output_dir)}
    with open_run_folder(with_overrides("quickstart", given)) as run_dir:
        write_metrics(run_dir, steps=4)
        for which, accuracy in (("baseline", 0.2), ("final", 0.9))[: 2 if ended else 1]:
            made = predictions(ASKED, accuracy, seed=1)
            write_evaluation(run_dir / "evaluations" / which, ASKED, made)
        row = {
            "step": 4, "state_path": "tinker://a", "sampler_path": WEIGHTS, "updates": 4,
            "expires_at": None, "config_digest": "c", "dataset_digest": "d", "backend": "embedded",
            "created_at": "2026-03-01T12:00:00+00:00",
        }  # fmt: skip
        (run_dir / "ledger.jsonl").write_text(json.dumps(row) + "\n")
        if ended:
            summarize(run_dir, steps=4, wall_seconds=1)
    return run_dir


def test_a_list_has_what_each_run_came_to_and_the_newest_is_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = make(tmp_path, "ended")
    stopped = make(tmp_path, "stopped", ended=False)
    spend(ended, [0.5] * 4, baseline=1.0, final=2.0)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    old = time.time() - 7200
    for path in (stopped / ".owner", *stopped.rglob("*")):
        os.utime(path, (old, old))
    (stopped / ".owner").write_text("1\n")  # init's, which began before anything
    os.utime(stopped / ".owner", (old, old))
    assert main(["--json", "--output-dir", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows][-1] == "stopped"
    by_name = {row["name"]: row for row in rows}
    assert by_name["ended"]["state"] == "ended"
    report = json.loads((ended / "evaluations/final/report.json").read_text())
    assert by_name["ended"]["after"] == report["accuracy"]
    assert by_name["ended"]["cost_usd"] == pytest.approx(5.0)
    assert by_name["stopped"]["after"] is None
    assert by_name["stopped"]["before"] is not None
    assert by_name["broken"]["state"] == "damaged"
    assert "config.json is damaged" in by_name["broken"]["fault"]
    (ended / "evaluations/final/report.json").write_text("{")
    [row] = [row for row in runs_in(tmp_path) if row.name == "ended"]
    assert "report.json is damaged" in row.fault
    assert row.before is not None


def test_an_evaluation_of_something_else_is_no_after(tmp_path: Path) -> None:
    run_dir = make(tmp_path, "in-training", ended=False)
    suite = run_dir / "evaluations/base-mathvision_testmini"
    write_evaluation(suite, ASKED, predictions(ASKED, 1.0, seed=2))
    [row] = runs_in(tmp_path)
    assert (row.before is not None, row.after) == (True, None)
    (run_dir / "evaluations/baseline/report.json").unlink()
    [row] = runs_in(tmp_path)  # where nothing else is known, it is what is known
    assert (row.before, row.after) == (None, 1.0)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_narrow_terminal_cuts_names_and_never_figures(tmp_path: Path, width: int) -> None:
    run_dir = make(tmp_path, "a-run-with-a-name-that-is-longer-than-any-terminal-is-wide")
    spend(run_dir, [0.5] * 4)
    out = io.StringIO()
    print_runs(runs_in(tmp_path), Terminal(out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    [line] = [line for line in lines if line.strip().startswith("a") and "/" in line]
    assert "4/4" in line
    assert "%" in line
    assert "$2.00" in line
    assert line.rstrip().endswith("s")


def test_no_run_at_all_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output-dir", str(tmp_path)]) == 0
    assert "There is no run in" in capsys.readouterr().out
    assert main(["--json", "--output-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_list_loads_nothing_that_takes_time() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, flows.console, flows.runs; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout.split()  # fmt: skip
    assert not {"torch", "tinker", "transformers", "pandas", "scipy", "prefect"} & set(said)


def test_ages() -> None:
    assert [age(one) for one in (-3, 59, 60, 7199, 7200, 90000)] == [
        "0 s", "59 s", "1 min", "1 h", "2 h", "1 d",
    ]  # fmt: skip
