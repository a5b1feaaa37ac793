"""Which problems each step of a chunk gets.

Without a curriculum that is `batch(seed, step, round)`, a function of the numbers alone. With one
it depends also on what was measured before the step: the state goes from step to step here, and
from chunk to chunk in the ledger row's `carry`.

What a curriculum has measured, on the disk: `curriculum/step-000040-<digest>.parquet`.

A file a checkpoint, with a row for each problem that was tried: `problem` is its number in the
training split, `right` and `wrong` the attempts at it, faded by their age. The ledger row of the
checkpoint names the file in its `carry`, so the row stays small however many problems there are.
The file is written whole before that row and never changed. Its name holds a digest of what is in
it, so a chunk that was broken off and is done again writes the same file, and one that was changed
is found out.

The next step's prompts, built in a thread of their own while the server is at work.

Reading a problem from the dataset, scaling its images, encoding them and counting tokens takes tens
of milliseconds for a large image, on a machine that otherwise waits for the server. At most one
step is built ahead. What is built is what would have been built in its own step, and what goes
wrong with it is raised there.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]
import tinker

from visual_r1.config import RunConfig
from visual_r1.data.batches import batch_indices
from visual_r1.data.problem import Problem
from visual_r1.data.shards import StoredProblems
from visual_r1.errors import RunError
from visual_r1.policy.policy import RolloutGroup
from visual_r1.rl.curriculum import (
    DrawnProblems,
    Measured,
    Places,
    Prospects,
    described,
    drawing_order,
    nothing_measured,
    prospects,
)
from visual_r1.runs.ledger import LedgerRow
from visual_r1.storage import replaced_whole

pa: Any = pyarrow  # it has no type stubs
pq: Any = pyarrow.parquet

KEY = "curriculum"
FOLDER = "curriculum"


def save_measured(run_dir: Path, step: int, measured: Measured) -> dict[str, str]:
    """Write the state at the start of `step`; what the ledger row has to carry."""
    places = np.flatnonzero(measured.tried_N)
    columns = {
        "problem": pa.array(places, pa.int32()),
        "right": pa.array(measured.right_N[places]),
        "wrong": pa.array(measured.wrong_N[places]),
    }
    path = run_dir / FOLDER / f"step-{step:06d}-{_digest(measured)}.parquet"
    with replaced_whole(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    return {KEY: path.relative_to(run_dir).as_posix()}


def load_measured(run_dir: Path, step: int, carry: Mapping[str, Any], count: int) -> Measured:
    """The state that the row of `step` carries, for a split of `count` problems.

    Raises `RunError` where its file has gone or is not what was written.
    """
    path = measured_path(run_dir, carry)
    if path is None:
        raise RunError(
            f"the ledger row of step {step} in {run_dir} carries no state of the curriculum: go "
            "back to an earlier checkpoint with --train.resume_from_step (0 starts over)."
        )
    try:
        table = pq.read_table(path)
        measured = nothing_measured(count)
        places = table["problem"].to_numpy()
        measured.right_N[places] = table["right"].to_numpy()
        measured.wrong_N[places] = table["wrong"].to_numpy()
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:
        raise _damaged(path, step) from error
    if not path.stem.endswith(f"-{_digest(measured)}"):
        raise _damaged(path, step)
    return measured


def measured_path(run_dir: Path, carry: Mapping[str, Any]) -> Path | None:
    """The file that a ledger row names; None where it names none."""
    name = carry.get(KEY)
    return run_dir / FOLDER / Path(name).name if isinstance(name, str) else None


def _digest(measured: Measured) -> str:
    found = hashlib.blake2b(digest_size=8)
    for values in (measured.right_N, measured.wrong_N):
        found.update(values.astype("<f8").tobytes())
    return found.hexdigest()


def _damaged(path: Path, step: int) -> RunError:
    return RunError(
        f"{path}, which the checkpoint of step {step} needs, is missing or damaged: put it back, "
        "or go back to another checkpoint with --train.resume_from_step (0 starts over)."
    )


class Draws(Protocol):
    """The draws of a chunk's steps; used step by step, each observed once."""

    @property
    def needs_samples(self) -> bool:
        """Whether a step's draw is known only when the step before it has been sampled."""
        ...

    def places(self, step: int, round: int, /) -> list[int]:
        """The numbers of the problems, in the training split, that a round of `step` draws."""
        ...

    def observe(self, step: int, groups: Sequence[RolloutGroup], /) -> DrawnProblems | None:
        """Take in what `step` sampled, all its rounds; what its draw was like, for the metrics."""
        ...

    def carry(self, run_dir: Path, step: int, /) -> dict[str, Any]:
        """Save the state at the start of `step`; what its ledger row has to carry."""
        ...


class EpochDraws:
    """Whole epochs over a split of `count` problems; there is no state."""

    needs_samples = False

    def __init__(self, config: RunConfig, count: int) -> None:
        self._train, self._count = config.train, count

    def places(self, step: int, round: int) -> list[int]:
        """See `batches`."""
        train = self._train
        return batch_indices(self._count, train.batch_size, train.seed, step, round)

    def observe(self, _: int, __: Sequence[RolloutGroup]) -> DrawnProblems | None:
        """Nothing is learnt from it."""

    def carry(self, _: Path, __: int) -> dict[str, Any]:
        """Nothing."""
        return {}


class CurriculumDraws:
    """The draws of `curriculum`, over problems whose families have the numbers `family_N`."""

    needs_samples = True

    def __init__(self, config: RunConfig, family_N: Places, measured: Measured) -> None:
        self._config, self._family_N, self._measured = config, family_N, measured
        self._ahead: tuple[int, Prospects, Places] | None = None

    def places(self, step: int, round: int) -> list[int]:
        """The next `train.batch_size` of the step's order; round after round through all of it."""
        _, order = self._order(step)
        size = self._config.train.batch_size
        return [int(order[at % len(order)]) for at in range(round * size, (round + 1) * size)]

    def observe(self, step: int, groups: Sequence[RolloutGroup]) -> DrawnProblems | None:
        """See `Measured.after`."""
        found, order = self._order(step)
        places = [int(order[at % len(order)]) for at in range(len(groups))]
        half_life = self._config.curriculum.half_life
        self._measured, self._ahead = self._measured.after(places, groups, half_life), None
        return described(found, places)

    def carry(self, run_dir: Path, step: int) -> dict[str, Any]:
        """See `measured_file`."""
        return save_measured(run_dir, step, self._measured)

    def _order(self, step: int) -> tuple[Prospects, Places]:
        if self._ahead is None or self._ahead[0] != step:
            config = self._config
            found = prospects(
                self._measured, self._family_N, config.train.group_size, config.curriculum
            )
            self._ahead = step, found, drawing_order(found.weight_N, config.train.seed, step)
        return self._ahead[1:]


def open_draws(
    config: RunConfig, problems: StoredProblems, run_dir: Path, start: LedgerRow | None
) -> Draws:
    """The draws that the configuration asks for, in the state that `start` carries.

    Raises `RunError` where that state has gone or was changed.
    """
    if config.curriculum.rule == "none":
        return EpochDraws(config, len(problems))
    _, family_N = np.unique(problems.families(), return_inverse=True)
    measured = (
        nothing_measured(len(problems))
        if start is None
        else load_measured(run_dir, start.step, start.carry, len(problems))
    )
    return CurriculumDraws(config, family_N, measured)


Read = Callable[[], Sequence[Problem]]
Build = Callable[[Problem], tinker.ModelInput]


Prompts = Mapping[int, tinker.ModelInput]  # by the identity of their problems


@dataclass(frozen=True, slots=True)
class _Step:
    number: int
    problems: Future[Sequence[Problem]]
    prompts: Future[Prompts]


class PromptsAhead:
    """Prompts of steps, built ahead with `build`. Use it as a context: it ends with its thread.

    At its end a step under way is given up after the prompt that is being built.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts-ahead")
        self._over = Event()
        self._current: _Step | None = None
        self._next: _Step | None = None

    def begin(self, step: int, read: Read) -> None:
        """Begin to build the prompts of `step`, whose problems `read` gives; returns at once."""
        problems = self._thread.submit(read)
        self._next = _Step(step, problems, self._thread.submit(self._all_of, problems))

    def problems(self, step: int, read: Read) -> Sequence[Problem]:
        """The problems of `step`, from now on the current one; raises what `read` raises.

        Where nobody began it, it is begun now.
        """
        if self._next is None or self._next.number != step:
            self.begin(step, read)
        self._current, self._next = self._next, None
        assert self._current is not None
        return self._current.problems.result()

    def prompt(self, problem: Problem) -> tinker.ModelInput:
        """The prompt of a problem: as it is built for the current step, else built now.

        Waits until the whole step is built, and raises what `build` raised at any of its problems.
        """
        built = self._current.prompts.result().get(id(problem)) if self._current else None
        return self._build(problem) if built is None else built

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _all_of(self, problems: Future[Sequence[Problem]]) -> Prompts:
        prompts: dict[int, tinker.ModelInput] = {}
        for problem in problems.result():
            if self._over.is_set():
                break
            prompts[id(problem)] = self._build(problem)
        return prompts
