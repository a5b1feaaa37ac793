"""What a benchmark says in one sentence before it ends."""

import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import NoReturn


class BenchmarkError(Exception):
    """A measurement cannot be taken; the message is one sentence with the way out."""


def count(text: str) -> int:
    """A flag that is a number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def run_command(main: Callable[[], int]) -> NoReturn:
    """End the program with the status of `main`; what it cannot measure is one sentence."""
    # As a Ctrl-C: what was started is ended, what was measured is written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
