"""Ctrl-C and SIGTERM: what was heard is how a program ends, whatever came in its place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STOPPED = "Stopped. The same command goes on from the last checkpoint.\n"
BEGIN = """
import os, signal, sys
from tasks.interruption import Interruptible, listen, settle, stop_if_interrupted
listen()
def hear(number=signal.SIGINT):
    os.kill(os.getpid(), number)
def command(work):
    try:
        with Interruptible():
            work()
    except KeyboardInterrupt:
        return settle()
    return 0
"""
REPLACED = """
def work():
    try:
        hear()
    except BaseException:
        raise ValueError("Task run is not set")
sys.exit(command(work))
"""
IN_FINALLY = """
def work():
    try:
        raise RuntimeError("the engine ended")
    finally:
        hear()
sys.exit(command(work))
"""
TWICE = """
def work():
    try:
        hear()
    finally:
        try:
            hear()
        finally:
            raise OSError("closed meanwhile")
sys.exit(command(work))
"""
DROPPED = """
class Dropped:
    def __del__(self):
        hear()
def work():
    sys.unraisablehook = lambda _: None
    Dropped()
    stop_if_interrupted()
    raise AssertionError("another task was begun")
sys.exit(command(work))
"""
SWALLOWED_BEFORE = """
try:
    hear()
except BaseException:
    pass
sys.exit(command(lambda: print("begun")))
"""
AS_EXIT = """
def work():
    try:
        hear()
    except BaseException:
        sys.exit(5)
sys.exit(command(work))
"""
WITHOUT_CONTEXT = """
def work():
    try:
        hear()
    except BaseException:
        pass
    raise ConnectionError("gone") from None
sys.exit(command(work))
"""
IN_AN_IMPORT = """
try:
    hear()
except KeyboardInterrupt as error:
    raise ImportError("numpy.core.multiarray failed to import") from error
"""
UNCAUGHT = """
hear()
"""
WHILE_IT_ENDS = """
import atexit
atexit.register(hear)
sys.exit(command(hear))
"""
HANGING_END = """
import atexit, time
from tasks import interruption
interruption.LEAVE_WITHIN_S = 0.5
atexit.register(time.sleep, 100)
sys.exit(command(hear))
"""
IN_A_CALLBACK = """
import time, weakref
class Referred:
    pass
def work():
    referred = Referred()
    reference = weakref.ref(referred, lambda _: hear())
    del referred
    time.sleep(60)
    raise AssertionError("went on")
sys.exit(command(work))
"""
IN_TWO_CALLBACKS = """
import time
class Dropped:
    def __del__(self):
        hear()
class Slow:
    def __del__(self):
        time.sleep(1)  # it comes again within this
def work():
    Dropped()
    Slow()
    time.sleep(60)
    raise AssertionError("went on")
sys.exit(command(work))
"""
TERMINATED = """
def work():
    hear(signal.SIGTERM)
    raise AssertionError("went on")
sys.exit(command(work))
"""
TERMINATED_IN_A_FLOW = """
class TerminationSignal(BaseException):  # as Prefect's, which hears it in our place
    pass
def work():
    try:
        raise TerminationSignal
    except BaseException:
        raise ValueError("Task run is not set")
sys.exit(command(work))
"""
TERMINATED_IN_A_CALLBACK_OF_A_FLOW = """
import time, weakref
from prefect.utilities.engine import capture_sigterm
class Referred:
    pass
def work():
    with capture_sigterm():
        referred = Referred()
        reference = weakref.ref(referred, lambda _: hear(signal.SIGTERM))
        del referred
        time.sleep(60)
    raise AssertionError("went on")
sys.exit(command(work))
"""


def run(program: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=_hears,
        check=False,
    )


def _hears() -> None:
    """Who starts the tests in the background may have everything below ignore the signal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "program",
    [
        REPLACED, IN_FINALLY, TWICE, DROPPED, SWALLOWED_BEFORE, AS_EXIT, WITHOUT_CONTEXT,
        IN_AN_IMPORT, UNCAUGHT, WHILE_IT_ENDS, HANGING_END, IN_A_CALLBACK, IN_TWO_CALLBACKS,
    ],
    ids=[
        "replaced", "in a finally", "twice", "dropped", "swallowed before", "as an exit",
        "without context", "in an import", "uncaught", "while it ends", "a hanging end",
        "in a callback", "in two callbacks",
    ],
)  # fmt: skip
def test_ctrl_c_is_the_end_whatever_came_in_its_place(program: str) -> None:
    ended = run(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", STOPPED)


@pytest.mark.parametrize(
    "program",
    [TERMINATED, TERMINATED_IN_A_FLOW, TERMINATED_IN_A_CALLBACK_OF_A_FLOW],
    ids=["plain", "in a flow", "in a callback of a flow"],
)
def test_sigterm_ends_by_that_signal_after_a_sentence(program: str) -> None:
    ended = run(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "", STOPPED)


def test_what_no_signal_caused_is_shown_as_it_is() -> None:
    ended = run("command(lambda: {}['missing'])")
    assert ended.returncode == 1
    assert "KeyError: 'missing'" in ended.stderr
    assert "Stopped" not in ended.stderr


def test_who_was_told_to_ignore_ctrl_c_ignores_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + "hear(); print('went on')"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        check=True,
    )
    assert ended.stdout == "went on\n"
