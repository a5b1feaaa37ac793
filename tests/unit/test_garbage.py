"""The garbage collector while a program imports, and after."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from visual_r1.garbage import (
    GROWN,
    MADE_BETWEEN,
    collect_if_grown,
    collect_nothing,
    collect_what_is_new,
)


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self
        self.holds = b""


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


def test_garbage_of_few_objects_and_many_bytes_is_found() -> None:
    """Of which the collector, which counts objects, would let any number lie."""
    gc.collect()
    gc.disable()
    collect_if_grown()
    gone: list[weakref.ref[Cycle]] = []
    for _ in range(5):
        large = Cycle()
        large.holds = b"1" * (GROWN // 2)
        gone.append(weakref.ref(large))
        del large
        collect_if_grown()
    assert gone[0]() is None
    assert gone[-1]() is not None  # and what is little is let lie


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
