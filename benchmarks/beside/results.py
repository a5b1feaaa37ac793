"""What was measured: a table on the terminal, and a JSON with all that a table leaves out."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from beside.rounds import Round


@dataclass(frozen=True)
class Spread:
    """n values: their median, their smallest and largest, and the middle half."""

    n: int
    median: float
    least: float
    most: float
    quartiles: tuple[float, float]

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        low, high = (values[0], values[0])
        if len(values) > 1:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(len(values), statistics.median(values), min(values), max(values), (low, high))

    def text(self, form: str = ",.0f") -> str:
        """`median (least to most)`; the median alone of one value."""
        if self.n == 1:
            return f"{self.median:{form}}"
        return f"{self.median:{form}} ({self.least:{form}} to {self.most:{form}})"


@dataclass(frozen=True)
class Measured:
    """One program on one piece of work, round by round; `rate` is `unit` a second."""

    case: str
    who: str
    unit: str
    rate: Spread
    seconds: Spread
    cpu_seconds: Spread
    load: Spread
    rounds: tuple[Round, ...]

    @staticmethod
    def of(case: str, who: str, unit: str, rounds: Sequence[Round]) -> "Measured":
        """Of rounds that each counted its `unit`."""
        amounts = [float(one.counted[unit]) for one in rounds]
        return Measured(
            case, who, unit,
            Spread.of([n / one.seconds for n, one in zip(amounts, rounds, strict=True)]),
            Spread.of([one.seconds for one in rounds]),
            Spread.of([one.cpu_seconds for one in rounds]),
            Spread.of([one.load for one in rounds]),
            tuple(rounds),
        )  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """How many times a peer's rate ours is, round by round as they were run in turn: by the clock,
    and by the processor time of all processes, which other work on the machine touches less."""

    clock: Spread
    cpu: Spread

    @staticmethod
    def of(ours: Measured, theirs: Measured) -> "Ratio":
        """Of as many rounds of one as of the other."""
        pairs = [
            (a.counted[ours.unit] / b.counted[theirs.unit], a, b)
            for a, b in zip(ours.rounds, theirs.rounds, strict=True)
        ]
        return Ratio(
            Spread.of([amount * b.seconds / a.seconds for amount, a, b in pairs]),
            Spread.of([amount * b.cpu_seconds / a.cpu_seconds for amount, a, b in pairs]),
        )


def beside(
    ours: Measured, theirs: Measured, times: Ratio, floor_s: float, what: str, form: str
) -> list[list[str]]:
    """Two lines of a table with the columns `BESIDE`: `what` was done by us, and by the peer."""
    return [
        [
            what if one is ours else "",
            one.who,
            one.rate.text(form),
            times.clock.text(".2f") if one is ours else "",
            times.cpu.text(".2f") if one is ours else "",
            one.cpu_seconds.text(".2f"),
            f"{one.seconds.median / floor_s:.1f}",
            f"{one.load.median:.1f}",
        ]
        for one in (ours, theirs)
    ]


BESIDE = (
    "work", "who", "a second", "times the peer", "by CPU", "CPU s a round", "times the floor",
    "load",
)  # fmt: skip


@dataclass
class Results:
    """All of one benchmark; `rows` are those of the table, in its columns."""

    benchmark: str
    settings: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, str]]
    measured: list[Measured] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self, file: Path | None) -> Path:
        """Write the JSON, by default under `.visual-r1/benchmarks/`; where it is."""
        now = datetime.now(UTC)
        if file is None:
            name = f"{self.benchmark}-{now:%Y%m%d-%H%M%S}.json"
            file = Path(".visual-r1") / "benchmarks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = {
            "benchmark": self.benchmark,
            "at": now.isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": self.versions,
            "settings": self.settings,
            "facts": self.facts,
            "ratios": {name: asdict(one) for name, one in self.ratios.items()},
            "measured": [asdict(one) for one in self.measured],
        }
        text = json.dumps(whole, indent=1, default=_plain)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(text + "\n")
        partial.replace(file)
        return file


def _plain(value: object) -> object:
    """What JSON has no form for."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], below: str = ""
) -> None:
    """A table on the terminal: the first column to the left, figures to the right."""
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:  # a log or a pipe has room
        console = Console(width=160)
    console.print(table)
    if below:
        console.print(below, markup=False, highlight=False, soft_wrap=True)
