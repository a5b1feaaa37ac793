"""Everything that this program says goes through here: to the terminal, to a log, to a stream.

Names of columns, families and files, answers, what a server said: text from outside is in nearly
every sentence. So it is made printable here, where sentences leave, and not where they are made; no
markup is read in them either. `test_printing.py` holds that nobody prints past this module.
"""

import argparse
import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment
from rich.text import Text

from visual_r1.opening import user_path
from visual_r1.secrecy import hide_secrets
from visual_r1.streams import unfailing
from visual_r1.wording import printable


def say(text: str, stream: TextIO | None = None) -> None:
    """Write the line or lines of `text`, by default to standard output, and flush."""
    target = unfailing(sys.stdout if stream is None else stream)
    target.write(printable(text, lines=True) + "\n")
    target.flush()


class Terminal(Console):
    """A console that shows text as it is: markup and emoji codes in it mean nothing.

    Colours are given by `style=` and by rich's own `Text`.
    """

    def __init__(self, file: TextIO | None = None, *, stderr: bool = False, **rich: Any) -> None:
        super().__init__(file=file, stderr=stderr, markup=False, emoji=False, **rich)

    def render_str(self, text: str, **how: Any) -> Text:
        """As rich's, of printable text: before it is measured and wrapped."""
        return super().render_str(printable(text, lines=True), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's; what came as a `Text` of its own is made printable here."""
        for segment in super().render(renderable, options):
            if segment.control:  # rich's own: the cursor of a bar
                yield segment
            else:
                shown = printable(segment.text, lines=True, most=None)
                yield segment if shown == segment.text else segment._replace(text=shown)

    def sentence(self, text: str, label: str = "", style: str = "") -> None:
        """Print one line that the terminal wraps, after `label` in colour: `error: …`."""
        start = [(label, style), ": "] if label else []
        self.print(Text.assemble(*start, self.render_str(printable(text))), soft_wrap=True)


def terminal() -> Terminal:
    """Where a command speaks to its user."""
    return Terminal(stderr=True)


class CommandParser(argparse.ArgumentParser):
    """A parser of flags that repeats no unprintable argument in what it complains of.

    Where a flag takes a `Path`, `~` is the user's home: of `--output-dir=~/runs` no shell makes it.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """Print usage and `message`, and end the program with status 2."""
        super().error(printable(message))

    def add_output_dir(self, holds: str = "runs/ is") -> None:
        """The flag for the working directory, where what the command needs `holds`."""
        self.add_argument(
            *("--output-dir", "--output_dir"), type=Path, default=Path(), metavar="DIR",
            help=f"where {holds}",
        )  # fmt: skip


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class PrintableFormatter(logging.Formatter):
    """A message is one line; the traceback behind it, where there is one, is printable too."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The format filled in, with the message in a line."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """All of what is written."""
        return printable(hide_secrets(super().format(record)), lines=True)


def logging_handler(console: Console) -> logging.Handler:
    """Shows warnings to a user as sentences: `note: …`."""
    handler = RichHandler(
        logging.WARNING, console, show_time=False, show_path=False, show_level=False, markup=False
    )
    handler.setFormatter(PrintableFormatter("note: %(message)s"))
    return handler


def show_warnings(console: Console) -> None:
    """The library's warnings go to `console` as sentences, and nowhere else."""
    logger = open_logger("visual_r1")
    logger.handlers = [logging_handler(console)]
    logger.propagate = False


def open_logger(name: str) -> logging.Logger:
    """The logger of this name; its messages are printable and hold no secret, whoever shows them,
    Prefect's too."""
    logger = logging.getLogger(name)
    if _as_printable not in logger.filters:
        logger.addFilter(_as_printable)
    return logger


def _as_printable(record: logging.LogRecord) -> bool:
    """A filter that keeps all records."""
    # A message that cannot be put together is met by the handlers, which say so and go on.
    with suppress(TypeError, ValueError):
        record.msg, record.args = printable(hide_secrets(record.getMessage())), None
    return True
