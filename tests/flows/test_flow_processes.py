"""Which processes are of a flow run, by processes that are there."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tasks.attempts import WITHIN
from tasks.flow_processes import hooks_of, others_run, processes_of

WAITS = "import sys; print(flush=True); sys.stdin.read()"


@contextmanager
def process(script: Path, *words: str, **environment: str) -> Generator[None]:
    """One that runs the file with these words and variables, for the block."""
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(WAITS)
    with subprocess.Popen(
        [sys.executable, str(script), *words],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as there:
        assert there.stdout is not None
        there.stdout.readline()
        yield
        there.communicate()


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ("prefect/runner/_workspace_runtime_bootstrap.py", ["engine", "flows/train.py:train"]),
        ("of_my_own.py", []),  # `command` of a deployment's job variables
    ],
)
def test_a_flows_process_is_known_whatever_started_it(
    launcher: str, words: list[str], tmp_path: Path
) -> None:
    flow_run, another = str(uuid4()), str(uuid4())
    with process(tmp_path / launcher, *words, PREFECT__FLOW_RUN_ID=flow_run):
        assert processes_of({flow_run, another}) == {flow_run}
        assert not hooks_of(flow_run)
    assert not processes_of({flow_run})


def test_what_a_flow_started_and_who_looks_for_hooks_are_not_the_flows_process(
    tmp_path: Path,
) -> None:
    flow_run = str(uuid4())
    started = {"PREFECT__FLOW_RUN_ID": flow_run, WITHIN: flow_run}
    with process(tmp_path / "engine.py", **started):
        assert not processes_of({flow_run})
        started[WITHIN] = str(uuid4())  # a worker of Prefect that another flow started
        with process(tmp_path / "flow.py", **started):
            assert processes_of({flow_run}) == {flow_run}
    bootstrap = tmp_path / "prefect" / "runner" / "_workspace_runtime_bootstrap.py"
    with process(bootstrap, "hook", "crashed", PREFECT__FLOW_RUN_ID=flow_run):
        assert not processes_of({flow_run})
        assert hooks_of(flow_run)


@pytest.mark.parametrize(
    ("command", "is_of_a_flow"),
    [
        ("python -m prefect.engine", True),
        ("python -Im prefect.flow_engine flows/train.py:train", True),
        ("python /opt/lib/prefect/runner/_workspace_runtime_bootstrap.py engine", True),
        ("python -m prefect.server.api", False),
        ("vim prefect.yaml", False),
        ("tail -f prefect.log", False),
        ("less /srv/prefect/runner/notes.txt", False),
    ],
)
def test_which_commands_of_another_user_may_be_of_a_flow_run(
    command: str, is_of_a_flow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Foreign:
        def cmdline(self) -> list[str]:
            return command.split()

        def environ(self) -> dict[str, str]:
            raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "process_iter", lambda: [Foreign()])
    assert others_run() is is_of_a_flow
