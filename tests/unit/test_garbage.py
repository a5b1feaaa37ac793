"""The garbage collector while a program imports, and after."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from visual_r1.garbage import (
    GROWN,
    MADE_BETWEEN,
    collect_as_ever,
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
    collect_nothing()
    collect_what_is_new(seldom=True)
    assert gc.get_threshold()[0] == MADE_BETWEEN
    one = Cycle()
    gone = weakref.ref(one)
    collect_what_is_new()
    del one
    gc.collect()
    assert gone() is None


def test_who_has_switched_the_collector_off_is_left_alone() -> None:
    gc.disable()
    new = [Cycle() for _ in range(1000)]
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    collect_nothing()
    collect_what_is_new(seldom=True)
    collect_as_ever()
    assert not gc.isenabled()
    assert gc.get_threshold() == thresholds
    # Fewer, where another thread has let go of something that was passed over before.
    assert gc.get_freeze_count() <= before
    assert len(new) == 1000


def test_a_program_that_ends_before_its_flow_leaves_it_as_it_was() -> None:
    """In a notebook, say, whose kernel goes on."""
    new = [Cycle() for _ in range(1000)]
    before = gc.get_freeze_count()
    collect_nothing()
    collect_as_ever()
    assert gc.isenabled()
    assert gc.get_freeze_count() <= before
    assert len(new) == 1000


def test_garbage_of_few_objects_and_many_bytes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the collector, which counts objects, would let any number lie."""
    gc.collect()
    gc.disable()
    monkeypatch.setattr("visual_r1.garbage._held", {os.getpid(): 2**62})
    first = large()
    collect_if_grown()
    assert first() is not None  # it holds no more than it did
    monkeypatch.setattr("visual_r1.garbage._held", {})
    collect_if_grown()
    gone = [large(), large(), large()]
    collect_if_grown()
    assert [one() for one in (first, *gone)] == [None] * 4
    last = large()
    collect_if_grown()
    assert last() is not None  # what is little is let lie


def large() -> "weakref.ref[Cycle]":
    """Garbage of half of what is let lie."""
    made = Cycle()
    made.holds = b"1" * (GROWN // 2)
    return weakref.ref(made)


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
