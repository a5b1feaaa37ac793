"""W&B: offline in the run folder, read back from the file that `wandb sync` uploads."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_up import predictions, problems, write_evaluation, write_metrics, write_validation
from wandb.proto.wandb_internal_pb2 import Record

from visual_r1.alarms import Finding
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.report import wandb as tracking
from visual_r1.report import wandb_copy, wandb_service, wandb_telling
from visual_r1.report.summary import summarize
from visual_r1.report.tracking import stop_asked
from visual_r1.report.wandb import track_run, track_steps
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import Journal
from visual_r1.tables import pa, write_table

BLOCK = 32768


def records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


class Copy:
    """What the single offline copy of a run holds."""

    def __init__(self, run_dir: Path) -> None:
        wandb_copy.end(run_dir)
        (self.file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
        deadline = time.monotonic() + 60
        # The library does not wait until its process has written the last of it.
        while not any(one.WhichOneof("record_type") == "exit" for one in records(self.file)):
            assert time.monotonic() < deadline, self.file
            time.sleep(0.02)
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.alerts: list[tuple[str, str]] = []
        self.pictures = 0
        for record in records(self.file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.ident, self.project = record.run.run_id, record.run.project
                self.config = {i.key: json.loads(i.value_json) for i in record.run.config.update}
            elif kind == "history":
                items = record.history.item
                self.history.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
            elif kind == "summary":
                for item in record.summary.update:
                    self.summary[item.key or "/".join(item.nested_key)] = json.loads(
                        item.value_json
                    )
            elif kind == "alert":
                self.alerts.append((record.alert.title, record.alert.level))
            elif kind == "artifact":
                contents = record.artifact.manifest.contents
                self.pictures += sum(entry.path.startswith("media/images") for entry in contents)

    def steps(self) -> list[int]:
        return [row["step"] for row in self.history if "train/accuracy" in row]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run in an empty folder, without a key, and with a home folder that must stay empty."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return RunConfig(preset="quickstart", output_dir=tmp_path, run={"name": "tracked run"})  # type: ignore[arg-type]


def evaluate(config: RunConfig, name: str, accuracy: float, count: int = 12) -> None:
    asked = problems(count)
    made = predictions(asked, accuracy, seed=0)
    write_evaluation(config.run_dir / "evaluations" / name, asked, made)


def test_a_finished_run_is_all_there_with_each_step_once(config: RunConfig):
    evaluate(config, "baseline", 0.5)
    write_metrics(config.run_dir, steps=4)
    track_steps(config)
    write_metrics(config.run_dir, steps=8)
    track_steps(config)
    evaluate(config, "final", 0.9)
    summarize(config.run_dir, steps=8, wall_seconds=3)
    track_run(config)

    copy = Copy(config.run_dir)
    assert copy.steps() == list(range(8))
    assert copy.project == "visual-r1"
    assert copy.config["train"]["batch_size"] == 16
    evaluations = [row for row in copy.history if "evaluation/accuracy" in row]
    assert [row["step"] for row in evaluations] == [0, 8]
    for name in ("accuracy", "format_rate", "visual_grounding_rate", "blind_accuracy"):
        assert f"final/{name}" in copy.summary
    assert copy.summary["delta"] > 0


def test_each_validation_is_told_once(config: RunConfig):
    write_metrics(config.run_dir, steps=4)
    write_validation(config.run_dir, 0, 0.5)
    write_validation(config.run_dir, 4, 0.75)
    track_steps(config)
    write_validation(config.run_dir, 8, 0.625)  # nothing else is new
    track_steps(config)
    told = [row for row in Copy(config.run_dir).history if "validation/accuracy" in row]
    found = [(row["step"], row["validation/accuracy"]) for row in told]
    assert found == [(0, 0.5), (4, 0.75), (8, 0.625)]
    assert told[0]["validation/blind_accuracy"] == 0.0625


def alarm(config: RunConfig, checkpoint: int) -> None:
    found = Finding("length", checkpoint - 1, checkpoint, "warn", "It grew.", "Why.", "Do this.")
    AlarmLog(config.run_dir).add([found])


def test_what_an_alarm_found_is_an_alert(config: RunConfig):
    write_metrics(config.run_dir, steps=4)
    track_steps(config)
    assert Copy(config.run_dir).alerts == []
    alarm(config, 4)
    track_steps(config)  # nothing else is new
    copy = Copy(config.run_dir)
    assert copy.alerts == [("tracked run: alarm length at step 4", "WARN")]
    assert copy.summary["alarms/length"] == 4


def test_the_predictions_table_holds_every_picture(config: RunConfig):
    evaluate(config, "base", 0.5, count=9)
    track_run(config)
    copy = Copy(config.run_dir)
    (table,) = copy.file.parent.glob("files/media/table/base/predictions*.table.json")
    shown = json.loads(table.read_text())
    assert {"id", "image", "question", "answer", "response", "verdict"} <= set(shown["columns"])
    assert len(shown["data"]) == 9
    assert copy.pictures == 9
    staged = list((config.run_dir / "wandb" / "data").rglob("tmp*"))
    assert len(staged) >= 9, "the pictures lie in the run folder until they are uploaded"


def test_some_rollouts_are_a_table(config: RunConfig):
    write_metrics(config.run_dir, steps=4)
    (config.run_dir / "rollouts").mkdir()
    rows = [
        {
            "step": 3, "problem_id": "p", "group": 0, "sample": sample, "response": "<b>x",
            "reward": 1.0, "advantage": 0.5, "verdict": "right", "reason": "",
        }
        for sample in range(2)
    ]  # fmt: skip
    write_table(config.run_dir / "rollouts/chunk-00000.parquet", pa.Table.from_pylist(rows))
    track_run(config)
    files = Copy(config.run_dir).file.parent
    (table,) = files.glob("files/media/table/rollouts*.table.json")
    shown = json.loads(table.read_text())
    assert {"step", "problem", "image", "gold", "response", "advantage"} <= set(shown["columns"])
    assert [row[shown["columns"].index("sample")] for row in shown["data"]] == [0, 1]


def test_nothing_is_written_outside_the_run_folder(config: RunConfig):
    evaluate(config, "base", 0.5, count=2)
    track_run(config)
    home = config.output_dir / "home"
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_run_that_was_killed_goes_on_under_the_same_id(config: RunConfig):
    write_metrics(config.run_dir, steps=3)
    track_steps(config)
    before = Copy(config.run_dir)
    torn = config.run_dir / "wandb" / f"offline-run-20200101_000000-{before.ident}"
    torn.mkdir()  # as a kill leaves it
    (torn / f"run-{before.ident}.wandb").write_bytes(b"half")
    write_metrics(config.run_dir, steps=6)
    track_steps(config)
    after = Copy(config.run_dir)
    assert after.ident == before.ident
    assert after.ident.startswith("tracked-run-")
    assert after.steps() == list(range(6))


def test_nothing_new_writes_nothing(config: RunConfig):
    write_metrics(config.run_dir, steps=3)
    track_run(config)
    before = Copy(config.run_dir).file
    track_run(config)
    track_steps(config)
    assert Copy(config.run_dir).file == before


@dataclass
class Step:
    number: int

    def row(self) -> dict[str, Any]:
        return {"step": self.number, "accuracy": 0.5}


def test_a_checkpoint_adds_what_is_new_to_the_copy(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    told: list[list[int]] = []

    def tell(run: Any, what: Any, end: int, *, tables: bool) -> None:
        told.append([row["step"] for row in what.rows])
        wandb_telling.tell(run, what, end, tables=tables)

    monkeypatch.setattr(wandb_copy, "tell", tell)
    journal = Journal(config.run_dir)
    config.run_dir.mkdir(parents=True)
    journal.rewind(0)
    for steps in ([0, 1], [2, 3], [4]):
        for step in steps:
            journal.append(Step(step))
        track_steps(config)
        track_steps(config)  # nothing is new
    assert told == [[0, 1], [2, 3], [4]]
    journal.rewind(3)  # the run goes back: the copy is another
    journal.append(Step(3))
    track_steps(config)
    assert told[3:] == [[0, 1, 2, 3]]
    assert Copy(config.run_dir).steps() == [0, 1, 2, 3]
    track_run(config)
    assert Copy(config.run_dir).steps() == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_off_means_off(config: RunConfig, monkeypatch: pytest.MonkeyPatch, how: str):
    if how == "flag":
        config = config.model_copy(
            update={"logging": config.logging.model_copy(update={"wandb": False})}
        )
    else:
        monkeypatch.setenv("WANDB_MODE", "disabled")
    write_metrics(config.run_dir, steps=3)
    track_run(config)
    assert not (config.run_dir / "wandb").exists()


class FakeServer:
    """What a W&B server keeps of its runs, and hands over to whoever continues one."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.alerts: list[str] = []
        self.killed_at_the_end = False
        self.url = ""
        self.project, self.entity, self.id = "visual-r1", "somebody", "a-run"
        self.stopped = False

    def is_stopped(self, *_: str) -> bool:
        return self.stopped

    @contextmanager
    def open_wandb_run(self, _config: RunConfig, _mode: str, ident: str) -> Iterator[Any]:
        self.ident = ident
        self.summary = self.summaries.setdefault(ident, {})
        yield self
        if self.killed_at_the_end:
            raise KeyboardInterrupt

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def alert(self, *, title: str, **_: Any) -> None:
        self.alerts.append(title)

    def log(self, row: dict[str, Any]) -> None:
        self.history.setdefault(self.ident, []).append(row)
        self.summary.update(row)

    def steps(self) -> list[int]:
        return [row["step"] for row in self.history[self.ident] if "train/accuracy" in row]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """What is told online comes here."""
    server = FakeServer()
    monkeypatch.setattr(tracking, "open_wandb_run", server.open_wandb_run)
    monkeypatch.setattr(tracking, "is_stopped", server.is_stopped)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    return server


def test_online_a_kill_before_it_was_noted_repeats_nothing_and_loses_nothing(
    config: RunConfig, server: FakeServer
):
    evaluate(config, "baseline", 0.5)
    write_metrics(config.run_dir, steps=3)
    alarm(config, 3)
    server.killed_at_the_end = True
    with pytest.raises(KeyboardInterrupt):
        track_steps(config)
    server.killed_at_the_end = False
    write_metrics(config.run_dir, steps=6)
    alarm(config, 6)
    track_steps(config)
    assert server.steps() == list(range(6))
    assert [title[-6:] for title in server.alerts] == ["step 3", "step 6"]
    assert sum("baseline/predictions" in row for row in server.history[server.ident]) == 1

    first = server.ident
    write_metrics(config.run_dir, steps=2)  # as `train.resume_from_step` leaves it
    track_steps(config)
    assert server.ident != first  # W&B takes no smaller steps
    assert server.steps() == [0, 1]


def test_online_the_final_evaluation_stands_after_the_steps_that_were_told_before_it(
    config: RunConfig, server: FakeServer
):
    evaluate(config, "baseline", 0.5)
    write_metrics(config.run_dir, steps=3)
    track_steps(config)
    evaluate(config, "final", 0.9)
    track_run(config)
    told = server.history[server.ident]
    assert [row["step"] for row in told if "evaluation/accuracy" in row] == [0, 3]


def test_each_press_of_the_stop_button_counts_once(config: RunConfig, server: FakeServer):
    """W&B may go on calling a run stopped that was started again."""
    heard: list[bool] = []
    write_metrics(config.run_dir, steps=5)
    metrics = config.run_dir / "metrics.jsonl"
    rows = metrics.read_text().splitlines(keepends=True)
    for step, server.stopped in enumerate([False, True, True, False, True], 1):
        metrics.write_text("".join(rows[:step]))
        track_steps(config)
        heard += [stop_asked(config), stop_asked(config)]
    assert heard == [False, False, True, False, False, False, False, False, True, False]
    assert server.steps() == list(range(5))


def test_a_stop_that_nobody_heeded_before_the_process_died_is_heeded_by_the_next_one(
    config: RunConfig, server: FakeServer, monkeypatch: pytest.MonkeyPatch
):
    """A validation lies between what tells W&B of a checkpoint and what heeds the stop."""
    server.stopped = True
    write_metrics(config.run_dir, steps=3)
    metrics = config.run_dir / "metrics.jsonl"
    rows = metrics.read_text().splitlines(keepends=True)
    heard: list[bool] = []
    for step, heeds in ((1, False), (2, True), (3, True)):
        metrics.write_text("".join(rows[:step]))
        monkeypatch.setattr(tracking, "_asked", set[Path]())  # of another process
        track_steps(config)
        heard += [stop_asked(config)] if heeds else []
    assert heard == [True, False]


PRESSED = """
import os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
asked = []
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        asked.append(body)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        answer = b'{"data": {"viewer": {"id": "i", "entity": "e", "username": "u"}, "project": '
        answer += b'{"run": {"stopped": true}}}}'
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): ...
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
os.environ["WANDB_API_KEY"] = "a" * 40
from visual_r1.report.wandb_service import is_stopped
print(is_stopped("visual-r1", "somebody", "a-run-of-mine"))
print(any(b"stopped" in body and b"a-run-of-mine" in body for body in asked))
"""


def test_wandbs_library_asks_whether_the_run_was_stopped(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PRESSED], cwd=tmp_path, env=without_service(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_wandb_interrupts_nobody_when_its_button_is_pressed(config: RunConfig):
    """By default its library sends the main thread SIGINT, whatever that is doing."""
    before, heard = signal.getsignal(signal.SIGINT), list[int]()
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with wandb_service.open_wandb_run(config, "offline", "a-run") as run:
            run._settings.stop_fn()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == []


def test_where_it_cannot_be_read_what_was_told_another_run_is_told_everything(config: RunConfig):
    write_metrics(config.run_dir, steps=3)
    track_run(config)
    before = Copy(config.run_dir).ident
    (config.run_dir / "wandb" / "tracked.json").write_text('{"next_step": 3}')
    track_run(config)
    after = Copy(config.run_dir)
    assert after.ident != before
    assert after.steps() == [0, 1, 2]


SERVER_DOWN = """
import sys
from pathlib import Path
from visual_r1.config import RunConfig
from visual_r1.report import wandb as tracking, wandb_service
wandb_service.INIT_LIMIT_S = 0.5
config = RunConfig(preset="quickstart", output_dir=Path(sys.argv[1]), run={"name": "tracked run"})
tracking.track_steps(config)
tracking.track_steps(config)
tracking.track_run(config)
print("the run goes on")
"""


def test_a_server_that_is_down_costs_one_warning_and_not_the_run(config: RunConfig):
    """In a process of its own: wandb keeps the first server's address for as long as it lives."""
    write_metrics(config.run_dir, steps=3)
    key = "0" * 40
    done = subprocess.run(
        [sys.executable, "-c", SERVER_DOWN, str(config.output_dir)],
        env={**os.environ, "WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "the run goes on\n"
    assert done.stderr.startswith("W&B is not keeping up")
    assert done.stderr.count("\n") == 1
    assert key not in done.stderr
    state = json.loads((config.run_dir / "wandb" / "tracked.json").read_text())
    assert state["next_step"] == 0, "what W&B did not hear is told again"


def without_service() -> dict[str, str]:
    """The environment without the helper process that wandb shares with its child processes."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


HALF_TOLD = """
import os, signal, sys
from pathlib import Path
from visual_r1.config import RunConfig
from visual_r1.liveness import children_named
from visual_r1.report import wandb as tracking, wandb_service
config = RunConfig(preset="quickstart", output_dir=Path(sys.argv[1]), run={"name": "tracked run"})
metrics = config.run_dir / "metrics.jsonl"
rows = metrics.read_text().splitlines(keepends=True)
metrics.write_text("".join(rows[:3]))
tracking.track_steps(config)
"""
SERVICE_DIES = """
children_named("wandb-core")[0].kill()
metrics.write_text("".join(rows))
tracking.track_steps(config)
tracking.track_run(config)
print("the run goes on")
"""


def test_a_service_of_wandb_that_dies_costs_no_step_and_the_copy_is_begun_anew(config: RunConfig):
    write_metrics(config.run_dir, steps=6)
    done = subprocess.run(
        [sys.executable, "-c", HALF_TOLD + SERVICE_DIES, str(config.output_dir)],
        env=without_service(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == "the run goes on\n"
    # Where it is not seen to be dead yet, it is told something, and that fails.
    assert not done.stderr or done.stderr.startswith("W&B is not keeping up")
    assert done.stderr.count("\n") <= 1
    assert Copy(config.run_dir).steps() == list(range(6))


HARMED = """
import sys
from pathlib import Path
from visual_r1.config import RunConfig
from visual_r1.report import wandb as tracking
tracking.track_run(
    RunConfig(preset="quickstart", output_dir=Path(sys.argv[1]), run={"name": "tracked run"})
)
"""


@pytest.mark.parametrize("harm", ["a file in its place", "a mode that is none"])
def test_what_wandb_cannot_do_harms_no_run(config: RunConfig, harm: str):
    """In a process of its own: wandb reads its variables once."""
    write_metrics(config.run_dir, steps=3)
    env = without_service()
    if harm == "a file in its place":
        (config.run_dir / "wandb").write_text("in the way")
        said = "W&B is not keeping up (FileExistsError: "
    else:
        env["WANDB_MODE"] = "sideways"
        said = "A setting of W&B cannot be used: mode: "
    done = subprocess.run(
        [sys.executable, "-c", HARMED, str(config.output_dir)],
        env=env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stderr.startswith(said)
    assert "The run goes on" in done.stderr
    assert done.stderr.count("\n") == 1


KEY = "0123456789abcdef" * 3


@pytest.mark.parametrize(
    ("environ", "files", "mode", "source"),
    [
        ({}, {}, "offline", "no key"),
        ({"WANDB_API_KEY": KEY}, {}, "online", "WANDB_API_KEY"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, {}, "offline", "WANDB_MODE"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, {}, "offline", "WANDB_MODE"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, {}, "disabled", "WANDB_MODE"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, {}, "online", "with WANDB_API_KEY"),
        ({}, {".netrc": "netrc"}, "online", ".netrc"),
        ({"NETRC": "elsewhere"}, {"elsewhere": "netrc"}, "online", "elsewhere"),
        ({"WANDB_MODE": "online"}, {".netrc": "netrc"}, "online", "WANDB_MODE, with .netrc"),
        ({"WANDB_MODE": "offline"}, {".netrc": "netrc"}, "offline", "WANDB_MODE"),
        ({}, {".netrc": "netrc", ".config/wandb/settings": "mode"}, "offline", "settings file"),
        ({"WANDB_CONFIG_DIR": "at"}, {".netrc": "netrc", "at/settings": "mode"}, "offline", "file"),
    ],
)
def test_the_mode_follows_wandb_s_own_chain(
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    files: dict[str, str],
    mode: str,
    source: str,
):
    home = config.output_dir / "home"
    monkeypatch.chdir(home)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    contents = {
        "netrc": f"machine wandb.example.org\n  login user\n  password {KEY}\n",
        "mode": "[default]\nmode = offline\n",
    }
    for name, kind in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(contents[kind])
    for name, value in environ.items():
        monkeypatch.setenv(name, str(home / value) if value in ("elsewhere", "at") else value)
    found = wandb_service.chosen_mode()
    assert found.mode == mode
    assert source in found.source
    assert KEY not in found.source


def test_online_without_a_key_is_said_and_not_asked(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig
):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="WANDB_MODE asks for online and there is no key"):
        wandb_service.chosen_mode()


def test_a_setting_that_cannot_be_is_said_without_its_value(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig
):
    monkeypatch.setenv("WANDB_MODE", "sideways")
    monkeypatch.setenv("WANDB_API_KEY", "a secret of mine")
    with pytest.raises(ConfigError, match="A setting of W&B cannot be used: ") as raised:
        wandb_service.chosen_mode()
    assert "a secret" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        UnicodeEncodeError("ascii", "é", 0, 1, "not in range"),
        BrokenPipeError("gone"),
        RuntimeError("can't start new thread"),
        RecursionError(),
        AssertionError(),
        MemoryError(),
        SystemExit(3),
        ExceptionGroup("several", [ValueError("one")]),
        type("OfItsOwn", (Exception,), {})("é"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_wandb_raises_is_one_warning(
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
):
    def failing(*_: object) -> Iterator[Any]:
        raise error

    monkeypatch.setattr(wandb_copy, "begin_wandb_run", failing)
    monkeypatch.setattr(wandb_copy, "open_wandb_run", failing)
    write_metrics(config.run_dir, steps=3)
    track_steps(config)
    track_run(config)
    assert [type(error).__name__ in said for said in caplog.messages] == [True]


STOPPED = """
wandb_service.STANDS_STILL_S = wandb_service.EXIT_STANDS_STILL_S = 3.0
if sys.argv[2] == "in between":
    children_named("wandb-core")[0].send_signal(signal.SIGSTOP)
    metrics.write_text("".join(rows))
    tracking.track_steps(config)
    tracking.track_run(config)
print("the run goes on", flush=True)
if sys.argv[2] == "at the end":
    children_named("wandb-core")[0].send_signal(signal.SIGSTOP)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_stopped(config: RunConfig, when: str) -> "subprocess.CompletedProcess[str]":
    temporary = config.output_dir / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", HALF_TOLD + STOPPED, str(config.output_dir), when],
        env=without_service() | {"TMPDIR": str(temporary)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["é", "角度"])
def test_a_locale_that_lacks_the_name_of_the_folder_harms_no_run(tmp_path: Path, folder: str):
    """W&B may be unable to write there; then that is a line, and the run has ended as it should."""
    output = tmp_path / folder
    mine = RunConfig(preset="quickstart", output_dir=output, run={"name": "tracked run"})  # type: ignore[arg-type]
    write_metrics(mine.run_dir, steps=6)
    before = (mine.run_dir / "metrics.jsonl").read_text()
    ends = "metrics.write_text(''.join(rows))\ntracking.track_run(config)\nprint('\\xe9, and on')\n"
    home = tmp_path / "home"
    home.mkdir()
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": str(home)}
    opened = "from visual_r1.streams import open_streams\nopen_streams()\n"
    done = subprocess.run(
        [sys.executable, "-c", opened + HALF_TOLD + ends, str(output)],
        env=without_service() | plain, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "\\xe9, and on\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert (mine.run_dir / "metrics.jsonl").read_text() == before
    if not done.stderr:
        assert Copy(mine.run_dir).steps() == list(range(6))


def test_a_service_of_wandb_that_stands_still_is_replaced(config: RunConfig):
    write_metrics(config.run_dir, steps=6)
    done = run_stopped(config, "in between")
    assert (done.returncode, done.stdout) == (0, "the run goes on\n"), done.stderr
    assert done.stderr.startswith("W&B is not keeping up")
    assert done.stderr.count("\n") == 1
    assert Copy(config.run_dir).steps() == list(range(6))


def test_a_service_of_wandb_that_stands_still_at_the_end_holds_nobody_up(config: RunConfig):
    write_metrics(config.run_dir, steps=6)
    done = run_stopped(config, "at the end")
    assert (done.returncode, done.stdout) == (0, "the run goes on\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_killed_process_staged_is_removed_by_the_next(config: RunConfig):
    write_metrics(config.run_dir, steps=6)
    assert run_stopped(config, "killed").returncode == -9
    temporary = config.output_dir / "tmp"
    deadline = time.monotonic() + 30
    while left := list(temporary.iterdir()):  # its process ends, and takes its socket away
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert list(config.run_dir.glob("wandb/scratch-*"))
    assert run_stopped(config, "not at all").returncode == 0
    assert not list(temporary.iterdir())
    assert not list(config.run_dir.glob("wandb/scratch-*"))
