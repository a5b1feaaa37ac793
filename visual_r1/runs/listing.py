"""The runs of a working directory, a row each: for a list of a hundred of them.

Little is read of each, and nothing that takes time is imported: figures that a run's own summary or
reports hold are taken from there.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from visual_r1.errors import RunError, VisualR1Error
from visual_r1.jsonl import JsonLines
from visual_r1.opening import read_file
from visual_r1.prices import usd_in_all
from visual_r1.runs.config_file import CONFIG_FILE, read_config
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.result import step_of_weights
from visual_r1.runs.state import RunState, last_change, state_of
from visual_r1.storage import read_json

_PRICED = re.compile(rb'"cost_usd": [0-9]')
_ROWS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Of a report what the list shows."""

    n: int
    accuracy: float
    cost_usd: float | None = None
    sampler_path: str = ""


_EVALUATIONS = TypeAdapter(_Evaluation)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list. `before` and `after` are greedy accuracies of the evaluations `baseline` and
    `final`; of a run with neither `after` is that of its newest one. `cost_usd` is the sum of what
    was priced. `after_step` is the step whose checkpoint `after` is of, where the run has further
    to go by now; 0 of one that was set aside, and None where `after` is how it came out. `fault`
    says what is damaged, where something is: the rest is then as far as known.
    """

    name: str
    folder: Path
    state: RunState | None
    model: str = ""
    data: str = ""
    preset: str = ""
    before: float | None = None
    after: float | None = None
    after_step: int | None = None
    problems: int = 0
    cost_usd: float | None = None
    changed_at: float = 0.0
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `visual-r1 runs --json` prints it."""
        state = self.state
        return {
            "name": self.name,
            "folder": str(self.folder),
            "state": state.name if state else "damaged",
            "sentence": state.sentence if state else self.fault,
            "step": state.step if state else None,
            "steps": state.steps if state else None,
            "pid": state.pid if state else None,
            "model": self.model,
            "data": self.data,
            "preset": self.preset,
            "before": self.before,
            "after": self.after,
            "after_step": self.after_step,
            "problems": self.problems,
            "cost_usd": self.cost_usd,
            "changed_at": self.changed_at,
            "fault": self.fault,
        }


def runs_in(output_dir: Path) -> list[RunRow]:
    """The runs under `output_dir`/runs, the one that changed last first; damaged ones too."""
    found = [row_of(path.parent) for path in (output_dir / "runs").glob(f"*/{CONFIG_FILE}")]
    return sorted(found, key=lambda row: (-row.changed_at, row.name))


def row_of(run_dir: Path) -> RunRow:
    """The row of the run in `run_dir`; never raises for what is damaged, see `RunRow.fault`."""
    name, changed = run_dir.name, last_change(run_dir)
    try:
        state, config = state_of(run_dir), read_config(run_dir)
    except VisualR1Error as error:
        return RunRow(name, run_dir, None, changed_at=changed, fault=str(error))
    if config is None:
        raise RunError(f"{run_dir} was removed while it was looked at.")
    reports: dict[str, _Evaluation] = {}
    fault = ""
    for path in sorted(run_dir.glob("evaluations/*/report.json"), key=_time_of):
        try:
            reports[path.parent.name] = read_json(path, _EVALUATIONS)
        except (OSError, ValueError) as error:
            fault = f"{path} is damaged ({error}): `visual-r1 verify {run_dir}` says more."
    newest = next(reversed(reports.values()), None)
    before = reports.get("baseline")
    # Where there is a before, only `final` is its after: others are of other splits, or suites.
    after = reports.get("final") or (newest if before is None else None)
    told = after or before
    return RunRow(
        name=name,
        folder=run_dir,
        state=state,
        model=config.model.name,
        data=config.data.source,
        preset=config.preset,
        before=before.accuracy if before else None,
        after=after.accuracy if after else None,
        after_step=_step_of(run_dir, state, reports.get("final")),
        problems=told.n if told else 0,
        cost_usd=_cost(run_dir, reports.values()),
        changed_at=changed,
        fault=fault,
    )


def _step_of(run_dir: Path, state: RunState, final: _Evaluation | None) -> int | None:
    """See `RunRow.after_step`."""
    if final is None or state.is_done or not final.sampler_path:
        return None
    rows = [line.row for line in Ledger(run_dir).read().sound]
    return step_of_weights(rows, final.sampler_path) or 0


def _cost(run_dir: Path, reports: Iterable[_Evaluation]) -> float | None:
    costs = [report.cost_usd for report in reports]
    for name in ("metrics.jsonl", "validation.jsonl"):
        costs += _costs_in(run_dir / name)
    return usd_in_all(costs)


def _costs_in(path: Path) -> Iterator[float]:
    """What the rows of a file say; on the embedded engine none does, which is seen at once."""
    try:
        if not _PRICED.search(read_file(path)):
            return
    except OSError:
        return
    for row in JsonLines(path, _ROWS).rows():
        if isinstance(cost := row.get("cost_usd"), int | float):
            yield float(cost)


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
