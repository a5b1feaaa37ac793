"""What a run writes down while it trains: metrics.jsonl and rollouts/chunk-00000.parquet.

Each step stands in both exactly once, whatever happened on the way: metrics are appended step by
step so that they can be watched, rollouts are written chunk by chunk, and whoever starts at step s
first rewinds both to the steps before s. What is dropped there is trained and written again, to the
same figures; where a user goes back on purpose, a copy is kept first.
"""

import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from pydantic import AfterValidator, TypeAdapter

from visual_r1.errors import RunError, StorageError
from visual_r1.hashing import file_digest
from visual_r1.jsonl import JsonLines, Reading
from visual_r1.jsonl_chain import CHAIN
from visual_r1.printing import open_logger
from visual_r1.storage import put_aside, replaced_whole
from visual_r1.tables import compute, pa, read_table, said_of, table_digest, write_table

if TYPE_CHECKING:  # it imports the SDK, and who only reads rows does without
    from visual_r1.rl.step import ScoredRollout, StepResult

logger = open_logger(__name__)

MetricsRow = dict[str, Any]
ROLLOUTS = "rollouts"
SET_ASIDE = "set-aside"


class Measured(Protocol):
    """The metrics of a step, whatever it learnt from."""

    def row(self) -> MetricsRow:
        """As a row of metrics.jsonl."""
        ...


def _with_step(row: MetricsRow) -> MetricsRow:
    if type(row.get("step")) is not int:
        raise ValueError("it is of no step")
    if CHAIN in row:
        raise ValueError("it was chained, and written anew by somebody else")
    return row


_ROWS: TypeAdapter[MetricsRow] = TypeAdapter(Annotated[MetricsRow, AfterValidator(_with_step)])


class _Looked(NamedTuple):
    """When a run's files were rewound last: to which step, and with rollouts `written` since."""

    generation: int
    step: int
    written: list[Path]


_looked: dict[Path, _Looked] = {}
"""By the path of the metrics: the runs that this process writes."""


class Journal:
    """The metrics and rollouts of the run in `run_dir`; only one process may write them."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = JsonLines(run_dir / "metrics.jsonl", _ROWS)
        self.metrics_path = self._metrics.path
        self.rollouts_dir = run_dir / ROLLOUTS
        self._set_aside_dir = run_dir / SET_ASIDE

    def rows(self) -> list[MetricsRow]:
        """The rows of metrics.jsonl, one a step, in order; a line being written is left out."""
        by_step = {row["step"]: row for row in self._metrics.rows()}
        return [by_step[step] for step in sorted(by_step)]

    def read(self) -> Reading[MetricsRow]:
        """All that stands in metrics.jsonl, damaged or not; changes nothing."""
        return self._metrics.read()

    def append(self, metrics: Measured) -> None:
        """Add a step's row; it can be read by others at once."""
        self._metrics.append(metrics.row())

    def add_to_last(self, **values: float) -> None:
        """Lay `values` over the row of the newest step: what was known only after it."""
        self._metrics.replace_last(lambda row: row | values)

    def rows_from(self, step: int) -> list[MetricsRow]:
        """The rows of `step` and those after it, in order; reads no more of the file than that."""
        rows = (line.row for line in self._metrics.since(lambda row: row["step"] < step))
        by_step = {row["step"]: row for row in rows if row["step"] >= step}
        return [by_step[step] for step in sorted(by_step)]

    def generation(self) -> int:
        """A number that stays while rows are only added, see `JsonLines.generation`."""
        return self._metrics.generation()

    def digest_of(self, step: int) -> str | None:
        """Of the row of a step, whose seconds no other run has; None where there is none."""
        lines = self._metrics.since(lambda row: row["step"] < step)
        return next((line.digest for line in lines if line.row["step"] == step), None)

    def flush(self) -> None:
        """Bring the metrics to the disk, before a checkpoint that relies on them is recorded."""
        self._metrics.flush()

    def rewind(self, step: int) -> None:
        """Leave only steps before `step`, each once.

        The first time in a process all files are looked at. After that only what this process has
        written since can hold a later step, as long as nobody else wrote to the metrics.
        """
        looked = _looked.get(self.metrics_path)
        if (
            looked is not None
            and looked.step <= step
            and looked.generation == self.generation()
            and [row["step"] for row in self.rows_from(step - 1)] == ([step - 1] if step else [])
        ):
            for path in looked.written:
                self._rewind_rollouts(path, step)
        else:
            self._rewind_all(step)
        _looked[self.metrics_path] = _Looked(self.generation(), step, [])

    def _rewind_all(self, step: int) -> None:
        if self.metrics_path.exists():
            lines = self._metrics.read().sound
            kept = {line.row["step"]: line for line in lines if line.row["step"] < step}
            if missing := sorted(set(range(step)) - kept.keys()):
                logger.warning(
                    "%s has no row for steps %s; they were trained, their metrics are lost.",
                    self.metrics_path,
                    ", ".join(map(str, missing)),
                )
            again = [line for line in lines if line.row["step"] >= step]
            self._metrics.write([kept[one] for one in sorted(kept)], forget=again)
        for path in self.chunks():
            self._rewind_rollouts(path, step)
        for leftover in self.rollouts_dir.glob(".chunk-*.tmp"):
            leftover.unlink()

    def copy_aside(self, step: int, *others: Path) -> None:
        """Keep a copy of all there is, and of `others`, before the run goes back to `step`.

        Under set-aside/; raises `StorageError` where there is no room for it.
        """
        # People delete copies that they do not need: the numbers go on from the highest.
        names = (path.name.partition("-")[0] for path in self._set_aside_dir.glob("*-before-*"))
        number = 1 + max((int(name) for name in names if name.isdecimal()), default=-1)
        target = self._set_aside_dir / f"{number:03d}-before-going-back-to-step-{step:06d}"
        partial = self._set_aside_dir / f".{target.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for path in (self.metrics_path, *others):
                if path.exists():
                    shutil.copy2(path, partial)
            if self.rollouts_dir.exists():
                shutil.copytree(self.rollouts_dir, partial / "rollouts")
            partial.rename(target)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(
                f"could not keep a copy of the later steps in {target}: {error}. "
                "Free some space; nothing was changed."
            ) from error

    def chunks(self) -> list[Path]:
        """The files with rollouts, in order."""
        return sorted(self.rollouts_dir.glob("chunk-*.parquet"))

    def write_rollouts(
        self,
        chunk: int,
        tables: Sequence[Any],
        digests: Callable[[], Mapping[str, str]] = dict,
    ) -> Path:
        """Write the chunk's rollouts, a row a sample, after rows of it that are there already.

        `tables` are its steps', see `rollout_table`, one at least. `digests` gives those of the
        ledger, see `rollouts_digest`: a file that is there and has another is put aside, with a
        warning.
        """
        path = self.rollouts_dir / f"chunk-{chunk:05d}.parquet"
        table = _joined(tables)
        if path.exists():
            expected = digests().get(self._place(path))
            with self._put_aside_where_damaged(path):
                before = read_rollouts(path)
                if expected and not expected.startswith(found := table_digest(before)):
                    raise RunError(
                        f"{path} is damaged: its rows have the digest {found}, and those that were "
                        f"written had {expected[: len(found)]}."
                    )
                table = pa.concat_tables([before, table], promote_options="default")
        if (looked := _looked.get(self.metrics_path)) is not None:
            looked.written.append(path)
        with replaced_whole(path) as temporary:
            write_table(temporary, table)
        return path

    def rollouts_digest(self, path: Path) -> dict[str, str]:
        """What the ledger says of a file with rollouts: its place, and two digests.

        The first is of its rows, which is what counts: going back leaves those of earlier steps, in
        another layout. The second is of its bytes. Raises `RunError` where it is damaged.
        """
        return {self._place(path): table_digest(read_rollouts(path)) + file_digest(path)}

    def _place(self, path: Path) -> str:
        return f"{ROLLOUTS}/{path.name}"

    @contextmanager
    def _put_aside_where_damaged(self, path: Path) -> Generator[None]:
        """Training needs no rollouts, so it goes on without those of a damaged file."""
        try:
            yield
        except RunError as error:
            aside = put_aside(path, self._set_aside_dir)
            logger.warning("%s It was moved to %s, and the run goes on.", error, aside)

    def _rewind_rollouts(self, path: Path, step: int) -> None:
        if not path.exists():
            return
        with self._put_aside_where_damaged(path):
            steps: list[int] = read_rollouts(path, ["step"])["step"].to_pylist()
            if not steps or max(steps) < step:
                return
            if min(steps) >= step:
                path.unlink()
                return
            table = read_rollouts(path)
            with replaced_whole(path) as temporary:
                write_table(temporary, table.filter(compute.less(table["step"], step)))


def read_metrics(run_dir: Path) -> list[MetricsRow]:
    """`Journal.rows` of the run in `run_dir`; empty where nothing was trained."""
    return Journal(run_dir).rows()


def rollout_table(results: "Sequence[StepResult]") -> Any:
    """A `pyarrow.Table` with a row a sample; `reward_<component>` holds the unweighted components.

    `outcome` says with and without which view the answer came (both, image_only, scan_only,
    neither), `second_verdict` what the second pass was (right, wrong, gave_up, no_scan, leak),
    `scan_read` the masked scan, `second_response` the answer to it, `second_order` the order in
    which that was shown the choices (`CAB`; empty where they were not shown, or stayed as they
    are). They are null where there was no second pass, or no scan, or nothing was asked; files of
    before have no `second_order`, and choices stayed as they are.
    `staleness` says how many steps before its own the weights were made that sampled it; files of
    before have no such column, and it was 0.
    `failure` says why a sample has no reward: what the user's own reward function did.
    `sequence_id` is null but for the loss that names its samples at the server (stable_reinforce).
    """
    rows = [
        _rollout_row(result.metrics.step, result.metrics.learning.staleness, scored)
        for result in results
        for scored in result.rollouts
    ]
    return pa.Table.from_pylist(rows, schema=_schema(name for row in rows for name in row))


def _schema(names: Iterable[str]) -> Any:
    """Of rollouts with these columns; what matters are those of components, in their order."""
    components = sorted({name for name in names if name.startswith("reward_")})
    return pa.schema(
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
            ("second_order", pa.string()),
            ("failure", pa.string()),
            ("sequence_id", pa.string()),
            ("staleness", pa.int32()),
        ]
    )


def _joined(tables: Sequence[Any]) -> Any:
    """The rows of all, and the columns that any has; the same table as of all steps at once."""
    names = _schema(name for table in tables for name in table.column_names).names
    return pa.concat_tables(tables, promote_options="default").select(names).combine_chunks()


def read_rollouts(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The rollouts of one chunk, as a `pyarrow.Table`; raises `RunError` where it is damaged."""
    with said_of(path, "move it away to do without the rollouts of its steps", RunError):
        table = read_table(path, columns)
        table.validate(full=True)  # text that is no text would fail later, and elsewhere
        table.column("step")  # another file of Parquet has none
        return table


def _rollout_row(step: int, staleness: int, scored: "ScoredRollout") -> dict[str, Any]:
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
        "second_order": second.order if second else None,
        "failure": rollout.scored.failure or None,
        "sequence_id": rollout.sequence_id,
        "staleness": staleness,
    }
