"""A mistake on the command line is said before anything slow is imported."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from train_command import ROOT, clean_environment


def imported_by(
    tmp_path: Path, environ: dict[str, str], *flags: str, flow: str = "train_flow"
) -> tuple[int, str, str]:
    """Exit status, what was said, and the list of imports of the command with these flags."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"flows/{flow}.py"), *flags],
        cwd=tmp_path,
        env=clean_environment() | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    said = [line for line in lines if not line.startswith("import time:")]
    imports = [line for line in lines if line.startswith("import time:")]
    return done.returncode, "\n".join(said), "\n".join(imports)


@pytest.mark.parametrize(
    ("environ", "flags", "sentence", "needs_the_sdk"),
    [
        ({}, ["--train.stepz", "4"], "There is no flag --train.stepz", False),
        (
            {},
            ["--preset", "geometry3k", "--backend.server", "remote"],
            "TINKER_API_KEY is not set",
            True,
        ),
        (
            {"TINKER_API_KEY": "tml-x", "TINKER_BASE_URL": "http://127.0.0.1:1"},
            ["--preset", "seed"],
            "Nothing answers at http://127.0.0.1:1",
            True,
        ),
    ],
    ids=["flag", "key", "server"],
)
def test_a_mistake_waits_for_no_slow_import(
    tmp_path: Path, environ: dict[str, str], flags: list[str], sentence: str, needs_the_sdk: bool
) -> None:
    status, said, imports = imported_by(tmp_path, environ, *flags)
    assert status == 1
    assert sentence in said
    assert "Traceback" not in said
    # A key may be in a Secret block of the server that Prefect's settings name.
    assert ("prefect.flows" if "KEY is not set" in sentence else "prefect") not in imports
    # A server is asked with what the SDK knows of addresses, and the SDK takes a second or two.
    assert needs_the_sdk or "tinker" not in imports
    assert not list(tmp_path.iterdir())  # nothing was started or written


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--run.name", "nono", "--checkpoint", "best"], "nono has no checkpoint yet"),
        (["--run.name", "nono", "--export"], "--export needs --checkpoint"),
        (["--run.name", "nono", "--name", "a/b"], "is no folder name"),
    ],
)
def test_an_evaluation_of_what_is_not_there_leaves_nothing(
    tmp_path: Path, flags: list[str], sentence: str
) -> None:
    status, said, imports = imported_by(tmp_path, {}, *flags, flow="evaluate_flow")
    assert status == 1
    assert sentence in said
    assert "prefect" not in imports
    assert "tinker" not in imports
    assert not list(tmp_path.iterdir())


def test_ctrl_c_during_the_slow_imports_shows_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", str(ROOT / "flows/train_flow.py")],
        cwd=tmp_path,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
        # Who starts the tests in the background may have it ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while "numpy" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert said == ["Stopped. The same command goes on from the last checkpoint."]
    assert process.returncode == 130


@pytest.mark.parametrize("flow", ["train_flow", "sft_flow", "evaluate_flow", "sweep_flow"])
def test_who_reads_flags_alone_imports_nothing_that_computes(tmp_path: Path, flow: str) -> None:
    status, _, imports = imported_by(tmp_path, {}, "--help", flow=flow)
    assert status == 0
    modules = {line.rpartition("|")[2].strip() for line in imports.splitlines()}
    assert "pydantic" in modules
    heavy = {"scipy", "torch", "transformers", "peft", "tinker", "numpy", "pyarrow", "prefect"}
    assert not modules & heavy
    assert not list(tmp_path.iterdir())


def test_what_a_run_names_is_looked_at_without_what_trains_it(tmp_path: Path) -> None:
    """A source that is not there is said before anything slow is imported or started."""
    status, said, imports = imported_by(tmp_path, {}, "--data.source", str(tmp_path / "nothing"))
    assert status == 1
    assert "nothing" in said
    modules = {line.rpartition("|")[2].strip() for line in imports.splitlines()}
    assert not modules & {"scipy.stats", "torch", "transformers", "peft", "tinker", "prefect.flows"}
    assert not list(tmp_path.iterdir())
