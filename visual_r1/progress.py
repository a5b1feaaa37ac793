"""How long work says where it stands: a bar on a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TextIO

from rich.progress import BarColumn, ProgressColumn, Task, TaskID
from rich.progress import Progress as RichBar
from rich.table import Column
from rich.text import Text

from visual_r1.printing import Terminal, say
from visual_r1.streams import unfailing
from visual_r1.wording import printable

PLAIN_INTERVAL_S = 15.0
SPEED_WINDOW_S = 120.0
BAR_WIDTH = 24
WIDE_TERMINAL = 110
SHORTEST_STAGE = 8


class Progress(Protocol):
    """What library functions report to. One stage at a time; a new one ends the one before."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Begin `stage`: of `total` things, counted in `unit` ("steps"), `done` were there before.

        Rate and time left are of what is done from here on.
        """
        ...

    def advance(self, n: int = 1, **shown: float) -> None:
        """`n` more are done; `shown` are the newest values to display (reward=0.61)."""
        ...

    def waiting(self, reason: str) -> None:
        """Why nothing moves at present; empty where it does. May be said again and again."""
        ...

    def finish(self, summary: str = "") -> None:
        """End the stage, with one line that says what came of it."""
        ...


class Silent:
    """A progress that says nothing."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None: ...

    def advance(self, n: int = 1, **shown: float) -> None: ...

    def waiting(self, reason: str) -> None: ...

    def finish(self, summary: str = "") -> None: ...


class PlainProgress:
    """Lines for logs: one when a stage starts, one now and then, one when it ends."""

    def __init__(
        self,
        stream: TextIO,
        interval_s: float = PLAIN_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        label: str = "",
    ) -> None:
        self._stream = stream
        self._label = f"{label}: " if label else ""
        self._interval_s = interval_s
        self._clock = clock
        self._stage: str | None = None
        self._unit = ""
        self._total = 0
        self._before = self._done = 0
        self._shown: dict[str, float] = {}
        self._started_at = 0.0
        self._said_at = 0.0
        self._waiting = ""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.finish()
        self._stage, self._total, self._unit = stage, total, unit
        self._before = self._done = done
        self._shown = {}
        self._started_at = self._said_at = self._clock()
        self._say(f"{stage}: {done} of {total} {unit}")

    def advance(self, n: int = 1, **shown: float) -> None:
        self._done += n
        self._shown.update(shown)
        now = self._clock()
        if now - self._said_at >= self._interval_s and self._done < self._total:
            self._said_at = now
            self._say(f"{self._stage}: {self._state(now)}")

    def waiting(self, reason: str) -> None:
        if reason and reason != self._waiting and self._stage is not None:
            self._say(f"{self._stage}: waiting: {reason}")
        self._waiting = reason

    def finish(self, summary: str = "") -> None:
        if self._stage is None:
            return
        now = self._clock()
        end = summary or self._state(now)
        self._say(f"{self._stage}: done in {_duration(now - self._started_at)}; {end}")
        self._stage = None

    def _state(self, now: float) -> str:
        rate = (self._done - self._before) / max(now - self._started_at, 1e-9)
        parts = [f"{self._done}/{self._total} {self._unit}", _rate(rate, self._unit)]
        if rate > 0 and self._done < self._total:
            parts.append(f"{_duration((self._total - self._done) / rate)} left")
        return ", ".join([*parts, *_in_words(self._shown)])

    def _say(self, line: str) -> None:
        say(printable(f"{self._label}{line}"), self._stream)


class TerminalProgress:
    """A bar with count, rate, time left and the newest values, for a person at a terminal."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._bar: RichBar | None = None
        self._task: TaskID = TaskID(0)
        self._stage = ""
        self._shown: dict[str, float] = {}
        self._started_at = 0.0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.finish()
        self._stage, self._shown = stage, {}
        self._started_at = time.monotonic()
        width = self._console.width
        wide = width >= WIDE_TERMINAL
        self._bar = RichBar(
            *([BarColumn(bar_width=BAR_WIDTH)] if wide else []),
            _LineColumn(unit, width - BAR_WIDTH - 1 if wide else width),
            console=self._console,
            transient=True,
            speed_estimate_period=SPEED_WINDOW_S,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, shown="")
        self._bar.start()

    def advance(self, n: int = 1, **shown: float) -> None:
        if self._bar is None:
            return
        self._shown.update(shown)
        self._bar.update(self._task, advance=n, shown="  ".join(_in_words(self._shown)))

    def waiting(self, reason: str) -> None:
        if self._bar is not None:
            said = f"waiting: {reason}" if reason else "  ".join(_in_words(self._shown))
            self._bar.update(self._task, shown=said)

    def finish(self, summary: str = "") -> None:
        if self._bar is None:
            return
        self._bar.stop()
        self._bar = None
        end = summary or "  ".join(_in_words(self._shown))
        took = _duration(time.monotonic() - self._started_at)
        self._console.print(
            Text.assemble(("✓ ", "green"), (self._stage, "bold"), f"  {took}  {end}".rstrip())
        )

    def abandon(self) -> None:
        """Take the bar off the screen without saying that anything is done."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _LineColumn(ProgressColumn):
    """The stage with its count, rate, time left and values, in one line of `width` characters.

    Where they do not fit, the stage's name is cut first: the numbers are what changes.
    """

    def __init__(self, unit: str, width: int) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._unit = unit
        self._width = width

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        left = task.time_remaining
        parts = [
            f"{task.completed:.0f}/{task.total or 0:.0f}",
            "" if speed is None else _rate(speed, self._unit),
            "" if left is None or task.finished else f"{_duration(left)} left",
        ]
        state = "  ".join(part for part in parts if part)
        shown = str(task.fields["shown"])
        stage = Text(task.description, style="bold")
        room = self._width - len(state) - 2 - (len(shown) + 2 if shown else 0)
        stage.truncate(max(room, SHORTEST_STAGE), overflow="ellipsis")
        return Text.assemble(stage, "  ", state, "  " if shown else "", (shown, "cyan"))


_label: ContextVar[str] = ContextVar("whose progress it is", default="")


@contextmanager
def one_of_several(label: str) -> Generator[None]:
    """For the block, and what it calls: others work beside it, so each line begins with `label`."""
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)


@contextmanager
def open_progress(stream: TextIO | None = None) -> Generator[Progress]:
    """A progress for `stream` (default stderr): a bar on a terminal, plain lines elsewhere.

    Within `one_of_several` lines on a terminal too: two bars would write over each other. Whatever
    stage is open when the block ends, also by an error, is taken off the screen.
    """
    target = unfailing(sys.stderr if stream is None else stream)
    console = Terminal(target)
    if _label.get() or not console.is_terminal:
        yield PlainProgress(target, label=_label.get())
        return
    progress = TerminalProgress(console)
    try:
        yield progress
    except BaseException:
        progress.abandon()
        raise
    progress.finish()


def _rate(per_second: float, unit: str) -> str:
    if per_second <= 0:
        return f"- {unit}/s"
    if per_second < 1:
        return f"{1 / per_second:.1f} s/{unit.removesuffix('s')}"
    return f"{per_second:.1f} {unit}/s"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {whole % 60:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def _in_words(values: Mapping[str, float]) -> list[str]:
    return [f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items()]
