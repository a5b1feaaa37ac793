"""Standard output and error that never fail: whatever stands behind them, the program goes on."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from visual_r1.streams import unfailing

ROOT = Path(__file__).parents[2]
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


def test_ctrl_c_while_printing_is_heard() -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt):
        unfailing(Interrupted()).write("text")
