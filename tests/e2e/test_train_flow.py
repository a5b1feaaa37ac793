"""The whole pipeline as a command: to its end, again, killed, and killed again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train_command import Folder, clean_environment, command, finish, start
from warm_command import WarmCommand

from flows.finished import summary_where_done
from visual_r1.data.procedural import generate
from visual_r1.errors import VisualR1Error
from visual_r1.evaluation.metrics import read_report
from visual_r1.runs.folder import config_of_run


def finish_warm(warm: WarmCommand, folder: Path, **changes: object) -> tuple[int, str]:
    """As `finish`, in a process that runs one command after the other."""
    ended = warm.run("--output-dir", folder, *command(**changes)[2:])
    return ended.status, ended.output


@pytest.fixture(scope="module")
def uninterrupted(warm: WarmCommand, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, output = finish_warm(warm, folder)
    assert status == 0, output
    return Folder(folder)


def wait_for(process: "subprocess.Popen[str]", wanted: str) -> None:
    """Read what a run prints, up to the first line that holds `wanted`."""
    assert process.stdout is not None
    printed: list[str] = []
    for line in process.stdout:
        printed.append(line)
        if wanted in line:
            return
    raise AssertionError(f"the run ended before it printed {wanted!r}:\n{''.join(printed)}")


def child_of(process: "subprocess.Popen[str]", module: str) -> psutil.Process:
    """The only child process that runs `module`; its guard names a number."""
    children = psutil.Process(process.pid).children(recursive=True)
    (child,) = [child for child in children if module in " ".join(child.cmdline())]
    return child


def test_a_run_leaves_what_is_promised(uninterrupted: Folder) -> None:
    run = uninterrupted.run
    for name in (
        "config.json",
        "ledger.jsonl",
        "metrics.jsonl",
        "rollouts/chunk-00000.parquet",
        "rollouts/chunk-00002.parquet",
        "evaluations/baseline/report.json",
        "evaluations/baseline/predictions.parquet",
        "evaluations/final/report.json",
        "export/adapter/adapter_config.json",
        "summary.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    assert [row["step"] for row in uninterrupted.rows("metrics.jsonl")] == list(range(6))
    assert [row["step"] for row in uninterrupted.rows("ledger.jsonl")] == [2, 4, 6]
    assert [row["step"] for row in uninterrupted.rows("validation.jsonl")] == [0, 4, 6]


def test_the_second_time_everything_is_done(warm: WarmCommand, uninterrupted: Folder) -> None:
    files = [*uninterrupted.run.rglob("*.parquet"), uninterrupted.run / "validation.jsonl"]
    before = {path: path.stat().st_mtime_ns for path in files}
    summary = (uninterrupted.run / "summary.json").read_bytes()
    keys = set(warm.results.iterdir())
    status, output = finish_warm(warm, uninterrupted.root)
    assert status == 0, output
    assert keys
    assert set(warm.results.iterdir()) == keys
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (uninterrupted.run / "summary.json").read_bytes() == summary
    assert "accuracy" in output


def test_a_start_with_nothing_left_to_do_starts_nothing(uninterrupted: Folder) -> None:
    flags = [*command()[2:], "--output-dir", str(uninterrupted.root)]
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.root.rglob("*.log")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command()[1:2], *flags],
        cwd=uninterrupted.root, env=clean_environment(), capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    assert "Wall time" in done.stdout
    assert "difference in points" in done.stdout
    lines = done.stderr.splitlines()
    imports = {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}
    assert not imports & {"torch", "transformers", "tinker", "peft", "prefect.flows", "uvicorn"}
    assert [line for line in lines if "import time:" not in line] == []
    logs = {path: path.stat().st_mtime_ns for path in uninterrupted.root.rglob("*.log")}
    assert logs == before  # neither the engine's nor the server's


@pytest.fixture(scope="module")
def intact(uninterrupted: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A copy that was looked at and is done."""
    copy = tmp_path_factory.mktemp("copies") / "copy"
    for name in ("runs", "data"):
        shutil.copytree(uninterrupted.root / name, copy / name)
    assert summary_where_done(config_of_run(Folder(copy).run)) is not None
    return Folder(copy)


@pytest.mark.parametrize(
    "name",
    [
        "runs/small/summary.json", "runs/small/report.html", "runs/small/ledger.jsonl",
        "runs/small/metrics.jsonl", "runs/small/validation.jsonl", "runs/small/export/export.json",
        "runs/small/export/adapter/adapter_model.safetensors",
        "runs/small/evaluations/baseline/report.json",
        "runs/small/evaluations/final/predictions.parquet", "data/*/manifest.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_what_is_gone_or_damaged_is_no_run_that_is_done(
    intact: Folder, tmp_path: Path, name: str, how: str
) -> None:
    copy = shutil.copytree(intact.root, tmp_path / "copy")
    config = config_of_run(Folder(copy).run)
    (file,) = copy.glob(name)
    content = file.read_bytes()
    at = len(content) // 2
    if how == "gone":
        file.unlink()
    elif name.endswith("report.html"):
        pytest.skip("it is made of the others, and vouches for nothing")
    else:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    try:
        assert summary_where_done(config) is None
    except VisualR1Error as error:  # as the start says it that works
        assert name.rpartition("/")[2] in str(error)


def test_what_is_evaluated_already_is_shown_again(warm: WarmCommand, uninterrupted: Folder) -> None:
    flags = [*command()[2:], "--checkpoint", "final", "--name", "final"]
    ended = warm.run("--output-dir", uninterrupted.root, *flags, flow="evaluate")
    assert ended.status == 0, ended.output
    assert "evaluate final" not in ended.output
    assert "final: accuracy " in ended.output
    assert "runs/small/evaluations/final" in ended.output


SUITE = """
title = "Ours"
form = "free form"
answers = "a value"
licence = "ours"
layout = "rows beside this file"
contamination = "none"
data = { source = "rows", columns.problem = "asked" }
convention = { says = "by nobody", source = "nowhere" }
"""


def test_a_named_benchmark_is_evaluated_beside_the_test_problems(
    warm: WarmCommand, uninterrupted: Folder, tmp_path: Path
) -> None:
    (tmp_path / "ours.toml").write_text(SUITE)
    (tmp_path / "rows").mkdir()
    rows = [
        {"asked": one.question, "answer": one.answer, "image": {"bytes": one.images[0]}}
        for one in generate(99, "test", 4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows" / "test.parquet")
    config = (uninterrupted.run / "config.json").read_bytes()
    flags = ["--output-dir", uninterrupted.root, *command()[2:], "--checkpoint", "final"]
    flags += ["--suite", tmp_path / "ours.toml"]
    ended = warm.run(*flags, flow="evaluate")
    assert ended.status == 0, ended.output
    report = read_report(uninterrupted.run / "evaluations" / "step-6-ours")
    # The command names the samples, and not the temperature.
    assert (report.suite, report.n, report.k) == ("ours", 4, 2)
    assert "than by its convention, as the command says: samples 2 and not 0." in " ".join(
        ended.output.split()
    )
    assert "4" in ended.output and "ours: others report: by nobody" in ended.output
    assert (uninterrupted.run / "config.json").read_bytes() == config
    again = warm.run(*flags, flow="evaluate")
    assert again.status == 0 and "requests" not in again.output
    refused = warm.run(*flags, "--export", flow="evaluate")
    assert "--suite goes without --export" in refused.sentence
    (tmp_path / "rows" / "test.parquet").unlink()
    refused = warm.run(*flags, flow="evaluate")
    assert "no source" in refused.sentence or "holds neither" in refused.sentence


def test_engine_and_flow_are_killed_and_it_ends_with_the_same_weights(
    uninterrupted: Folder, used_before: Path
) -> None:
    process = start(used_before)
    wait_for(process, "training, steps 0 to 1: done")
    first = child_of(process, "visual_r1.engine")
    first.send_signal(signal.SIGKILL)  # the flow starts another one by itself
    wait_for(process, "training, steps 2 to 3: done")
    engine, server = child_of(process, "visual_r1.engine"), child_of(process, "server_process.py")
    assert engine.pid != first.pid
    process.kill()
    process.communicate()
    for child in (engine, server):  # a killed flow leaves nobody behind
        child.wait(timeout=30)
    status, output = finish(used_before)
    assert status == 0, output

    folder = Folder(used_before)
    assert folder.adapter == uninterrupted.adapter
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == list(range(6))
    assert folder.rows("ledger.jsonl")[-1]["step"] == 6
    found, expected = (
        [(row["step"], row["right"]) for row in one.rows("validation.jsonl")]
        for one in (folder, uninterrupted)
    )
    assert found == expected


def test_ctrl_c_stops_a_run_in_a_sentence(used_before: Path) -> None:
    process = start(used_before, in_a_terminal=True)
    wait_for(process, "prepare: done")
    engine, server = child_of(process, "visual_r1.engine"), child_of(process, "server_process.py")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the flow and its server
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.splitlines()[-1].startswith("Stopped. The same command goes on")
    assert "Traceback" not in output
    for child in (engine, server):
        child.wait(timeout=30)


def test_a_group_that_is_told_to_end_ends_without_a_traceback(used_before: Path) -> None:
    """As `timeout make train` does, or a machine that is shut down."""
    process = start(used_before, in_a_terminal=True)
    wait_for(process, "prepare: done")
    engine, server = child_of(process, "visual_r1.engine"), child_of(process, "server_process.py")
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, output
    assert "Traceback" not in output
    for child in (engine, server):
        child.wait(timeout=30)


def test_an_alarm_pauses_a_run_that_then_ends_with_the_same_weights(
    warm: WarmCommand, uninterrupted: Folder, tmp_path: Path
) -> None:
    alarm = {"alarms__mismatch": "pause", "alarms__window": 4, "alarms__max_kl": 1e-30}
    status, output = finish_warm(warm, tmp_path, **alarm)
    folder = Folder(tmp_path)
    assert status == 3, output
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("paused: Paused at the checkpoint of step 4")
    assert [row["step"] for row in folder.rows("ledger.jsonl")] == [2, 4]
    status, output = finish_warm(warm, tmp_path, **alarm)
    assert status == 0, output
    assert folder.adapter == uninterrupted.adapter
    assert [row["checkpoint"] for row in folder.rows("alarms.jsonl")] == [4]
    assert "alarms.jsonl" in folder.rows("ledger.jsonl")[-1]["digests"]
    assert "mismatch" in (folder.run / "report.html").read_text()
