"""`visual-r1 view`: its address, its port, its end."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from looked_at import trained

from visual_r1.pages.command import view


@contextmanager
def viewing(*arguments: str) -> Generator[tuple["subprocess.Popen[str]", str]]:
    """The command at work, and the address that it printed."""
    command = [sys.executable, "-m", "flows.console", "view", "--no-browser", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found is not None, said + process.stdout.read()
        try:
            yield process, found[0]
        finally:
            process.kill()


def test_it_prints_an_address_that_opens_the_run_and_ctrl_c_ends_it_cleanly(tmp_path: Path):
    trained(tmp_path, "a run")
    with viewing("--output-dir", str(tmp_path), "--port", "0", "a run") as (process, address):
        assert "/runs/a%20run?token=" in address
        with httpx.Client(follow_redirects=True, timeout=60) as browser:
            page = browser.get(address)
            assert "Killed, after 20 of 40 steps." in page.text
            assert "token" not in str(page.url)
        assert process.stdout is not None
        assert process.stdout.readline() == "Ctrl-C ends them.\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.wait() == 0


def test_a_run_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trained(tmp_path, "a-run")
    assert view(["--output-dir", str(tmp_path), "--no-browser", "a-rum"]) == 1
    assert "did you mean a-run?" in capsys.readouterr().err


def test_a_port_that_somebody_has_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert view(["--output-dir", str(tmp_path), "--no-browser", "--port", port]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"cannot be served on port {port}" in said
    assert "choose another --port" in said


@pytest.mark.parametrize("port", ["99999", "-1", "http", "1.5", "²"])
def test_what_is_no_port_is_a_sentence(port: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        view([f"--port={port}"])
    assert "is no port: give a number from 0 to 65535" in " ".join(capsys.readouterr().err.split())
