"""Standard output and error that never fail: what a run says cannot end it.

Whatever is printed, by rich, by a log handler or by a library, is written to one of the two. They
are wrapped once, when a command begins, and there is no other place where printing could fail.

In a process of Prefect's worker this is not the first thing: its log handler is there already, and
has the stream as it was. It prints with rich, which ends the program where a reader has gone.
"""

import logging
import os
import sys
from collections.abc import Iterable
from logging import Logger
from pathlib import Path
from typing import Any, TextIO, cast


class UnfailingStream:
    """A text stream whose `write` and `flush` never raise; all else is that of the stream.

    What its encoding lacks is written as a backslash escape. Where the reader has gone, the disk is
    full or the stream was closed, it goes nowhere from then on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text` as far as that is possible; its length."""
        try:
            self._stream.write(text)
        except UnicodeError:
            encoding = self._stream.encoding or "ascii"
            shown = text.encode(encoding, "backslashreplace").decode(encoding)
            if shown != text:
                self.write(shown)
        # One of the two places for this: nothing that prints may end a run, whatever it raises.
        except Exception:  # noqa: BLE001
            self._let_go()
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, as far as that is possible."""
        try:
            self._stream.flush()
        except Exception:  # noqa: BLE001 as above
            self._let_go()

    def writelines(self, lines: Iterable[str]) -> None:
        """As `write`."""
        for line in lines:
            self.write(line)

    def is_of(self, stream: object) -> bool:
        """Whether it writes to `stream`."""
        return stream is self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self) -> None:
        """Point its file at nothing: Python itself flushes it once more at the exit, and says so
        with a status of 120 where that fails."""
        try:
            number = self._stream.fileno()
            if not os.get_blocking(number):  # somebody else at the terminal has set that
                os.set_blocking(number, True)
                return
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        except (OSError, ValueError):
            return  # closed, or no file at all


def unfailing(stream: TextIO | None) -> TextIO:
    """`stream`, which does not raise any more when it is written to; where Python has none, since
    it was closed, what is written goes nowhere."""
    if isinstance(stream, UnfailingStream):
        return stream
    return cast("TextIO", UnfailingStream(_nowhere() if stream is None else stream))


def open_streams() -> None:
    """Make standard output and error of this program unfailing, also where one was closed."""
    # Else the next file that is opened takes the number, and gets what is printed.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = unfailing(sys.stdout), unfailing(sys.stderr)
    for handler in _log_handlers():
        _open_stream_of(handler, "stream")
        if (console := getattr(handler, "console", None)) is not None:  # rich's
            _open_stream_of(console, "file")
    # A record that cannot be put together is left out; else `logging` prints a traceback.
    logging.raiseExceptions = False


def _log_handlers() -> set[logging.Handler]:
    """All that any logger has by now."""
    root = logging.root
    named = (logger for logger in root.manager.loggerDict.values() if isinstance(logger, Logger))
    return {handler for logger in (root, *named) for handler in logger.handlers}


def _open_stream_of(holder: object, attribute: str) -> None:
    """Where `holder` has standard output or error, it gets the one that does not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, UnfailingStream) and stream.is_of(getattr(holder, attribute, None)):
            setattr(holder, attribute, stream)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
