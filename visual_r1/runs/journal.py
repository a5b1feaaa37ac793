"""What a run writes down while it trains: metrics.jsonl and rollouts/chunk-00000.parquet.

Each step stands in both exactly once, whatever happened on the way: metrics are appended step by
step so that they can be watched, rollouts are written chunk by chunk, and whoever starts at step s
first rewinds both to the steps before s.

Reading a run folder: what a report, a summary or a tracker needs, and nothing that trains.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from visual_r1.alarms import AlarmLog
from visual_r1.errors import RunError, StorageError
from visual_r1.rl.metrics import StepMetrics
from visual_r1.rl.step import ScoredRollout, StepResult
from visual_r1.storage import replaced_whole, sync_file, write_text

pa: Any = pyarrow  # it has no type stubs
pq: Any = pyarrow.parquet
compute: Any = pyarrow.compute

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class Journal:
    """The metrics and rollouts of the run in `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        self.metrics_path = run_dir / "metrics.jsonl"
        self.rollouts_dir = run_dir / "rollouts"
        self._set_aside_dir = run_dir / "set-aside"
        self._alarms_path = AlarmLog(run_dir).path

    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl, one a step, in order; lines that are torn are left out."""
        if not self.metrics_path.exists():
            return []
        by_step: dict[int, Row] = {}
        for line in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            row = _parsed(line)
            if row is not None:
                by_step[int(row["step"])] = row
        return [by_step[step] for step in sorted(by_step)]

    def append(self, metrics: StepMetrics) -> None:
        """Add a step's row; it can be read by others at once."""
        try:
            with self.metrics_path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(metrics.row()) + "\n")
        except OSError as error:
            raise StorageError(
                f"could not write {self.metrics_path}: {error.strerror or error}. "
                "Free some space; the run goes on from its last checkpoint."
            ) from error

    def add_to_last(self, **values: float) -> None:
        """Lay `values` over the row of the newest step: what was known only after it."""
        rows = self.rows()
        rows[-1:] = [row | values for row in rows[-1:]]
        write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def flush(self) -> None:
        """Bring the metrics to the disk, before a checkpoint that relies on them is recorded."""
        if self.metrics_path.exists():
            sync_file(self.metrics_path)

    def rewind(self, step: int) -> None:
        """Leave only steps before `step`, each once."""
        self._rewind_metrics(step)
        for path in sorted(self.rollouts_dir.glob("chunk-*.parquet")):
            _rewind_rollouts(path, step)
        for leftover in self.rollouts_dir.glob(".chunk-*.tmp"):
            leftover.unlink()

    def copy_aside(self, step: int) -> None:
        """Keep a copy of all there is under set-aside/, before the run goes back to `step`."""
        taken = len(list(self._set_aside_dir.glob("*")))
        target = self._set_aside_dir / f"{taken:03d}-before-going-back-to-step-{step:06d}"
        try:
            target.mkdir(parents=True)
            for path in (self.metrics_path, self._alarms_path):
                if path.exists():
                    shutil.copy2(path, target)
            if self.rollouts_dir.exists():
                shutil.copytree(self.rollouts_dir, target / "rollouts")
        except (OSError, shutil.Error) as error:
            raise StorageError(
                f"could not keep a copy of the later steps in {target}: {error}. "
                "Free some space; nothing was changed."
            ) from error

    def write_rollouts(self, chunk: int, results: Sequence[StepResult]) -> Path:
        """Write the chunk's rollouts, a row a sample, after rows of it that are there already."""
        path = self.rollouts_dir / f"chunk-{chunk:05d}.parquet"
        table = rollout_table(results)
        if path.exists():
            table = pa.concat_tables([read_rollouts(path), table], promote_options="default")
        with replaced_whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return path

    def _rewind_metrics(self, step: int) -> None:
        if not self.metrics_path.exists():
            return
        before = self.metrics_path.read_text(encoding="utf-8", errors="replace")
        rows = [row for row in self.rows() if row["step"] < step]
        after = "".join(json.dumps(row) + "\n" for row in rows)
        missing = sorted(set(range(step)) - {int(row["step"]) for row in rows})
        if missing:
            logger.warning(
                "%s has no row for steps %s; they were trained, their metrics are lost.",
                self.metrics_path,
                ", ".join(map(str, missing)),
            )
        if after != before:
            write_text(self.metrics_path, after)


def rollout_table(results: Sequence[StepResult]) -> Any:
    """A `pyarrow.Table` with a row a sample; `reward_<component>` holds the unweighted components.

    `outcome` says with and without which view the answer came (both, image_only, scan_only,
    neither), `second_verdict` what the second pass was (right, wrong, gave_up, no_scan, leak),
    `scan_read` the masked scan, `second_response` the answer to it. They are null where there was
    no second pass, or no scan, or nothing was asked.
    `failure` says why a sample has no reward: what the user's own reward function did.
    """
    rows = [
        _rollout_row(result.metrics.step, scored)
        for result in results
        for scored in result.rollouts
    ]
    components = sorted({name for row in rows for name in row if name.startswith("reward_")})
    schema = pa.schema(
        [
            ("step", pa.int32()),
            ("problem_id", pa.string()),
            ("group", pa.int32()),
            ("sample", pa.int32()),
            ("response", pa.string()),
            ("reward", pa.float64()),
            *((name, pa.float64()) for name in components),
            ("advantage", pa.float64()),
            ("response_tokens", pa.int32()),
            ("stop_reason", pa.string()),
            ("verdict", pa.string()),
            ("reason", pa.string()),
            ("grader_version", pa.string()),
            ("outcome", pa.string()),
            ("second_verdict", pa.string()),
            ("scan_read", pa.string()),
            ("second_response", pa.string()),
            ("failure", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def read_rollouts(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The rollouts of one chunk, as a `pyarrow.Table`; raises `RunError` where it is damaged."""
    try:
        return pq.read_table(path, columns=columns)
    except pa.ArrowInvalid as error:
        raise RunError(
            f"{path} is damaged: move it away to go on without the rollouts of its steps."
        ) from error


def _rollout_row(step: int, scored: ScoredRollout) -> Row:
    rollout = scored.rollout
    grade, second = rollout.scored.grade, rollout.second
    return {
        "step": step,
        "problem_id": rollout.problem_id,
        "group": rollout.group,
        "sample": rollout.sample,
        "response": rollout.response,
        "reward": None if rollout.scored.failure else rollout.scored.reward,
        **{f"reward_{name}": value for name, value in rollout.scored.components.items()},
        "advantage": scored.advantage,
        "response_tokens": len(rollout.tokens),
        "stop_reason": rollout.stop_reason,
        "verdict": grade.verdict,
        "reason": grade.reason,
        "grader_version": str(grade.version),
        "outcome": rollout.outcome,
        "second_verdict": second.verdict if second else None,
        "scan_read": second.scan.text if second and second.scan else None,
        "second_response": second.response if second else None,
        "failure": rollout.scored.failure or None,
    }


def _rewind_rollouts(path: Path, step: int) -> None:
    steps: list[int] = read_rollouts(path, ["step"])["step"].to_pylist()
    if not steps or max(steps) < step:
        return
    if min(steps) >= step:
        path.unlink()
        return
    table = read_rollouts(path)
    with replaced_whole(path) as temporary:
        pq.write_table(
            table.filter(compute.less(table["step"], step)), temporary, compression="zstd"
        )


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    is_row = isinstance(row, dict) and isinstance(cast("Row", row).get("step"), int)
    return cast("Row", row) if is_row else None


def read_metrics(run_dir: Path) -> list[Row]:
    """The rows of `metrics.jsonl` in the order of their steps, each step once.

    A line that is being written while this reads is left out. Empty where nothing was trained.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    by_step: dict[int, Row] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(cast(Row, row).get("step"), int):
            by_step[row["step"]] = cast(Row, row)
    return [by_step[step] for step in sorted(by_step)]
