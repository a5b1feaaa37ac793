"""The garbage collector while a program imports, and after."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from visual_r1.garbage import MADE_BETWEEN, collect_nothing, collect_what_is_new


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.enable()


def test_what_a_program_imports_is_never_looked_at_again_and_what_comes_later_is() -> None:
    collect_nothing()
    imported = Cycle()
    kept = weakref.ref(imported)
    collect_what_is_new()
    del imported
    new = Cycle()
    gone = weakref.ref(new)
    del new
    gc.collect()
    assert kept() is not None
    assert gone() is None
    assert gc.isenabled()


def test_a_second_time_in_the_same_process_keeps_no_garbage() -> None:
    """A process that runs several flows would else hold on to what each of them left."""
    collect_what_is_new()
    one = Cycle()
    gone = weakref.ref(one)
    collect_what_is_new()
    del one
    gc.collect()
    assert gone() is None


PROGRAM = """
import gc
from types import SimpleNamespace

from flows.command import first_look
from tasks.environment import settle_prefect

first_look(["--train.steps", "3"], needs_server=False)
settle_prefect()
print("imports", gc.isenabled())

from tasks.outcome import remembered


def work():
    print("flow", gc.isenabled(), gc.get_freeze_count() > 0, gc.get_threshold()[0])


remembered(SimpleNamespace(fn=work)).fn()
"""


def test_a_command_looks_for_no_garbage_until_its_flow_begins(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"--output-dir={tmp_path}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert said.splitlines() == ["imports False", f"flow True True {MADE_BETWEEN}"]
