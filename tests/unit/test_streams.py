"""Standard output and error that never fail: whatever stands behind them, the program goes on."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trials.programs import ROOT, clean_environment
from visual_r1.streams import unfailing

PROGRAM = """
import sys
from visual_r1.streams import open_streams
open_streams()
import logging
from rich.console import Console
for stream in (sys.stdout, sys.stderr):
    for _ in range(3):
        print("é △ \\ud800", file=stream, flush=True)
    Console(file=stream).print("[bold]é △[/]", "x y " * 5000)
logging.basicConfig()
logging.warning("é △ %d", "no number")
open(sys.argv[1], "w").write("gone on")
"""


def run(tmp_path: Path, redirection: str, **environ: str) -> tuple[int, str]:
    """The program under a shell; its exit status, and what it said before it ended."""
    done, program = tmp_path / "done.txt", tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    shell = f'exec "$0" "$1" "$2" {redirection}'
    ended = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, str(program), str(done)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environ,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.read_text() == "gone on", ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"ignored" not in ended.stderr
    return ended.returncode, ended.stdout.decode("ascii", "replace")


@pytest.mark.parametrize(
    "redirection",
    [
        "",
        ">&-",
        "2>&-",
        ">&- 2>&- <&-",
        ">/dev/full",
        "2>/dev/full",
        ">/dev/full 2>&1",
        "</dev/null",
    ],
)
def test_a_stream_that_is_closed_or_full(tmp_path: Path, redirection: str) -> None:
    status, _ = run(tmp_path, redirection)
    assert status == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "utf-16"])
def test_an_encoding_that_lacks_what_is_printed(tmp_path: Path, encoding: str) -> None:
    status, _ = run(tmp_path, "", PYTHONIOENCODING=encoding)
    assert status == 0


def test_a_locale_that_lacks_it(tmp_path: Path) -> None:
    status, said = run(tmp_path, "", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert status == 0
    assert "\\xe9 \\u25b3 \\ud800" in said


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    done = tmp_path / "done.txt"
    shell = '"$0" -c "$1" "$2" 2>&1 | head -c 1; test "${PIPESTATUS:-0}" = 0'
    ended = subprocess.run(
        ["/bin/bash", "-c", shell.replace("${PIPESTATUS:-0}", "${PIPESTATUS[0]}"), sys.executable,
         PROGRAM, str(done)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0
    assert done.read_text() == "gone on"


MADE_BEFORE = """
import logging, os, sys
import prefect.main
from prefect.logging import get_logger
prefects = get_logger("engine")
plain = logging.getLogger("somebody.elses")
for stream in (sys.stdout, sys.stderr):
    plain.addHandler(logging.StreamHandler(stream))
from visual_r1.streams import open_streams
open_streams()
for _ in range(3):
    prefects.warning("é △")
    plain.warning("é △")
print("said " * 5000, flush=True)
open(sys.argv[1], "w").write("gone on")
"""


@pytest.mark.parametrize("both", [True, False], ids=["both streams", "standard error alone"])
@pytest.mark.parametrize("how", ["no reader", "full"])
def test_a_log_handler_that_was_made_before_the_streams_were_opened(
    tmp_path: Path, how: str, *, both: bool
) -> None:
    """As Prefect's is in a worker's process, where it would end the run when the worker dies."""
    done = tmp_path / "done.txt"
    number = os.open("/dev/full", os.O_WRONLY)
    if how == "no reader":
        reader, number = os.pipe()
        os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", MADE_BEFORE, str(done)],
        env=clean_environment() | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path)},
        stdout=number if both else subprocess.PIPE,
        stderr=number,
        check=False,
    )
    os.close(number)
    assert done.exists()
    assert done.read_text() == "gone on"
    assert ended.returncode == 0
    assert both or b"said said" in ended.stdout


class Broken(io.StringIO):
    """A stream that raises something that nobody thought of."""

    def write(self, text: str) -> int:
        raise RuntimeError(f"no stream for {text!r} any more")

    def flush(self) -> None:
        raise MemoryError


def test_whatever_a_stream_raises() -> None:
    stream = unfailing(Broken())
    assert stream.write("text") == 4
    stream.writelines(["a", "b"])
    stream.flush()
    print("text", file=stream, flush=True)
    assert unfailing(stream) is stream


def test_where_python_has_no_stream_what_is_printed_goes_nowhere() -> None:
    print("text", file=unfailing(None), flush=True)


def test_ctrl_c_while_printing_is_heard() -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt):
        unfailing(Interrupted()).write("text")
