"""What a run writes down while it trains: metrics.jsonl and rollouts/chunk-00000.parquet.

Each step stands in both exactly once, whatever happened on the way: metrics are appended step by
step so that they can be watched, rollouts are written chunk by chunk, and whoever starts at step s
first rewinds both to the steps before s. What is dropped there is trained and written again, to the
same figures; where a user goes back on purpose, a copy is kept first.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]
from pydantic import AfterValidator, TypeAdapter

from visual_r1.errors import RunError, StorageError
from visual_r1.printing import open_logger
from visual_r1.rl.metrics import StepMetrics
from visual_r1.rl.step import ScoredRollout, StepResult
from visual_r1.runs.jsonl import JsonLines
from visual_r1.storage import replaced_whole

pa: Any = pyarrow  # it has no type stubs
pq: Any = pyarrow.parquet
compute: Any = pyarrow.compute

logger = open_logger(__name__)

MetricsRow = dict[str, Any]


def _with_step(row: MetricsRow) -> MetricsRow:
    if type(row.get("step")) is not int:
        raise ValueError("it is of no step")
    return row


_ROWS: TypeAdapter[MetricsRow] = TypeAdapter(Annotated[MetricsRow, AfterValidator(_with_step)])


class Journal:
    """The metrics and rollouts of the run in `run_dir`; only one process may write them."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = JsonLines(run_dir / "metrics.jsonl", _ROWS)
        self.metrics_path = self._metrics.path
        self.rollouts_dir = run_dir / "rollouts"
        self._set_aside_dir = run_dir / "set-aside"

    def rows(self) -> list[MetricsRow]:
        """The rows of metrics.jsonl, one a step, in order; a line being written is left out."""
        by_step = {row["step"]: row for row in self._metrics.rows()}
        return [by_step[step] for step in sorted(by_step)]

    def append(self, metrics: StepMetrics) -> None:
        """Add a step's row; it can be read by others at once."""
        self._metrics.append(metrics.row())

    def add_to_last(self, **values: float) -> None:
        """Lay `values` over the row of the newest step: what was known only after it."""
        for line in self._metrics.read()[0][-1:]:
            self._metrics.replace(line, line.row | values)

    def flush(self) -> None:
        """Bring the metrics to the disk, before a checkpoint that relies on them is recorded."""
        self._metrics.flush()

    def rewind(self, step: int) -> None:
        """Leave only steps before `step`, each once."""
        if self.metrics_path.exists():
            lines, _ = self._metrics.read()
            kept = {line.row["step"]: line for line in lines if line.row["step"] < step}
            if missing := sorted(set(range(step)) - kept.keys()):
                logger.warning(
                    "%s has no row for steps %s; they were trained, their metrics are lost.",
                    self.metrics_path,
                    ", ".join(map(str, missing)),
                )
            again = [line for line in lines if line.row["step"] >= step]
            self._metrics.write([kept[one] for one in sorted(kept)], forget=again)
        for path in sorted(self.rollouts_dir.glob("chunk-*.parquet")):
            _rewind_rollouts(path, step)
        for leftover in self.rollouts_dir.glob(".chunk-*.tmp"):
            leftover.unlink()

    def copy_aside(self, step: int, *others: Path) -> None:
        """Keep a copy of all there is, and of `others`, before the run goes back to `step`.

        Under set-aside/; raises `StorageError` where there is no room for it.
        """
        taken = len(list(self._set_aside_dir.glob("*")))
        target = self._set_aside_dir / f"{taken:03d}-before-going-back-to-step-{step:06d}"
        try:
            target.mkdir(parents=True)
            for path in (self.metrics_path, *others):
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


def read_metrics(run_dir: Path) -> list[MetricsRow]:
    """`Journal.rows` of the run in `run_dir`; empty where nothing was trained."""
    return Journal(run_dir).rows()


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


def _rollout_row(step: int, scored: ScoredRollout) -> dict[str, Any]:
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
