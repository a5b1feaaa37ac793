"""What the pages show of a run, read from its folder alone: fast, and changing nothing.

Reports and summaries are read for the figures that are shown, by the names that they promise (docs/
metrics.md, design of `report.json` and `summary.json`); what is damaged is said in its place, and
the rest of the page is there all the same.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from visual_r1.alarms.finding import Finding
from visual_r1.errors import VisualR1Error
from visual_r1.evaluation.controls import Controls, Seeing
from visual_r1.evaluation.statistics import Interval
from visual_r1.pages.place import NotThere
from visual_r1.prices import usd_in_all
from visual_r1.report.repeat import flattened
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import MetricsRow, read_metrics
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.result import step_of_weights
from visual_r1.runs.state import RunState, state_of
from visual_r1.runs.validations import ValidationRow, Validations
from visual_r1.storage import read_json, read_sealed

T = TypeVar("T")

REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class FamilyFigures:
    """One kind of problem in a report."""

    n: int
    accuracy: float
    accuracy_ci95: Interval
    blind_accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigures:
    """What a page shows of `report.json`: shares from 0 to 1 with their 95% intervals."""

    n: int
    accuracy: float
    accuracy_ci95: Interval
    k: int = 0
    pass_at_k: float | None = None
    pass_at_k_ci95: Interval | None = None
    blind_accuracy: float | None = None
    blind_accuracy_ci95: Interval | None = None
    format_rate: float | None = None
    visual_grounding_rate: float | None = None
    mean_response_tokens: float | None = None
    truncated: int = 0
    gave_up: int = 0
    model: str = ""
    sampler_path: str = ""
    dataset_digest: str = ""
    rounding: str = "exact"
    split: str = "test"
    template: str = ""
    max_new_tokens: int = 0
    thinking: str = "default"
    grader_version: str = ""
    decisions: str = ""
    template_digest: str = ""
    max_pixels: int = 0
    predictions_digest: str | None = None
    cost_usd: float | None = None
    tokens_prefill: float | None = None
    tokens_sampled: float | None = None
    tokens_cached: float | None = None
    by_family: Mapping[str, FamilyFigures] = field(default_factory=dict[str, FamilyFigures])
    controls: Controls | None = None

    @property
    def seeing(self) -> Seeing | None:
        """Seeing against thinking, where a control has asked for it."""
        return self.controls.seeing if self.controls else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of a `summary.json`."""

    conclusion: str
    evidence: str
    distinguishable: bool
    baseline: float
    final: float
    delta: float
    delta_ci95: Interval
    p_value: float
    n: int
    gained: int
    lost: int
    steps: int
    updated_steps: int
    wall_seconds: float


_REPORTS, _VERDICTS = TypeAdapter(ReportFigures), TypeAdapter(Verdict)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as the pages show it; `faults` are the sentences about what could not be read.

    `config` holds the settings by their dotted names, in their order. `cost` is in US dollars,
    None where nothing had a price; not `whole` where a part of it had none. `began` is when its
    first file was written.
    """

    name: str
    folder: Path
    state: RunState | None
    config: Mapping[str, object]
    checkpoints: Sequence[LedgerRow]
    metrics: Sequence[MetricsRow]
    validations: Sequence[ValidationRow]
    evaluations: Mapping[str, ReportFigures]
    verdict: Verdict | None
    findings: Sequence[Finding]
    faults: Sequence[str] = field(default=())

    @property
    def model(self) -> str:
        """Its name; empty where the configuration cannot be read."""
        return str(self.config.get("model.name") or "")

    @property
    def data(self) -> str:
        """Where the problems are from, with what of it."""
        source, subset = self.config.get("data.source"), self.config.get("data.subset")
        return f"{source or ''}{f' / {subset}' if subset else ''}"

    @property
    def steps_wanted(self) -> int:
        """How many steps the run is to have; 0 where nobody knows."""
        steps = self.config.get("train.steps")
        return steps if isinstance(steps, int) else 0

    @property
    def before(self) -> ReportFigures | None:
        """The evaluation of what it began with."""
        return self.evaluations.get("baseline")

    @property
    def after(self) -> ReportFigures | None:
        """That of the checkpoint at which it came to its end, see `after_of`; None before that."""
        return self.evaluations.get("final")

    @property
    def result(self) -> Verdict | None:
        """The verdict, where the run is done and it is of its newest checkpoint, see `RunState`."""
        return self.verdict if self.state is None or self.state.is_done else None

    @property
    def after_of(self) -> str:
        """Of what `after` is, where that is not how the run came out: `step 60`."""
        if self.after is None or self.result is not None or not self.after.sampler_path:
            return ""
        step = self.after_step
        return "a checkpoint that was set aside" if step is None else f"step {step}"

    @property
    def after_step(self) -> int | None:
        """The step whose checkpoint `after` is of; None where the ledger has none such."""
        if self.after is None:
            return None
        if not self.after.sampler_path:  # of an older version
            return self.verdict.steps if self.verdict else None
        return step_of_weights(self.checkpoints, self.after.sampler_path)

    @property
    def changed(self) -> datetime | None:
        """When it wrote last."""
        return datetime.fromtimestamp(self.state.changed_at, UTC) if self.state else None

    @property
    def cost(self) -> float | None:
        """What its steps, validations and evaluations cost, as far as they had a price."""
        return usd_in_all(self._costs())

    @property
    def cost_is_whole(self) -> bool:
        """Whether each of them had one."""
        return None not in self._costs()

    def _costs(self) -> list[float | None]:
        return [
            *(row.get("cost_usd") for row in self.metrics),
            *(row.cost_usd for row in self.validations),
            *(one.cost_usd for one in self.evaluations.values()),
        ]


def facts_of(name: str, folder: Path) -> RunFacts:
    """All there is of the run in `folder`, called `name` in addresses."""
    faults: list[str] = []

    def tried(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except FileNotFoundError:
            return otherwise
        except VisualR1Error as error:
            faults.append(str(error))
        except (OSError, ValueError) as error:
            faults.append(f"A file of {folder} cannot be read: {error}")
        return otherwise

    evaluations: dict[str, ReportFigures] = {}
    for path in sorted(folder.glob(f"evaluations/*/{REPORT}")):
        found = tried(lambda path=path: _read(path, _REPORTS), None)
        if found is not None:
            evaluations[path.parent.name] = found
    ledger = tried(lambda: Ledger(folder).read(), None)
    return RunFacts(
        name,
        folder,
        tried(lambda: state_of(folder), None),
        tried(lambda: flat_settings(folder / "config.json"), {}),
        [line.row for line in ledger.sound] if ledger else [],
        tried(lambda: _metrics(folder), []),
        tried(lambda: Validations(folder).rows(), []),
        evaluations,
        tried(lambda: _read(folder / "summary.json", _VERDICTS), None),
        tried(lambda: AlarmLog(folder).findings(), []),
        tuple(dict.fromkeys(faults)),
    )


def evaluation_of(folder: Path, name: str) -> ReportFigures:
    """The figures of the run's evaluation `name`; raises `NotThere`."""
    path = folder / "evaluations" / name / REPORT
    try:
        # One of those that are there, so that the name is no path.
        if path not in folder.glob(f"evaluations/*/{REPORT}"):
            raise FileNotFoundError
        return read_figures(path.parent)
    except (OSError, ValueError) as error:
        raise NotThere(
            f"There is no evaluation {name!r} of {folder.name}, or it is damaged."
        ) from error


def read_figures(folder: Path) -> ReportFigures:
    """Those of the evaluation in `folder`; `ValueError` or `OSError` where they cannot be read."""
    return read_json(folder / REPORT, _REPORTS)


def flat_settings(path: Path) -> dict[str, object]:
    """The settings of a `config.json` by their dotted names, also of a version with others."""
    content: Any = read_sealed(path).content
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged: it holds no settings by their names")
    return flattened(cast("dict[str, Any]", content))


def _read(path: Path, shape: TypeAdapter[T]) -> T:
    try:
        return read_json(path, shape)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error


def _metrics(folder: Path) -> list[MetricsRow]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    status = path.stat()
    return _kept_metrics().of(folder, (status.st_size, status.st_mtime_ns))


@dataclass
class KeptMetrics:
    """The metrics of runs, checked line by line, which takes a while for thousands of steps: once
    for each state of their files. Threads may share it.

    Where there are more than `most` rows, what came last gives way: a list asks for all runs in the
    same order, and would find none of them where the oldest did.
    """

    most: int = 50_000
    _kept: dict[Path, tuple[tuple[int, int], list[MetricsRow]]] = field(
        default_factory=dict[Path, tuple[tuple[int, int], list[MetricsRow]]]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, folder: Path, state: tuple[int, int]) -> list[MetricsRow]:
        """The rows of the run in `folder`, whose file is in that state. Raises as `read_metrics`
        does."""
        with self._lock:
            there = self._kept.get(folder)
            if there is not None and there[0] == state:
                return there[1]
        rows = read_metrics(folder)
        with self._lock:
            self._kept.pop(folder, None)
            while self._kept and self._rows + len(rows) > self.most:
                self._kept.popitem()
            if len(rows) <= self.most:
                self._kept[folder] = state, rows
        return rows

    @property
    def _rows(self) -> int:
        return sum(len(rows) for _, rows in self._kept.values())


@cache
def _kept_metrics() -> KeptMetrics:
    return KeptMetrics()
