"""Which problems each step of a chunk gets.

Without a curriculum that is `batch(seed, step, round)`, a function of the numbers alone. With one
it depends also on what was measured before the step: the state goes from step to step here, and
from chunk to chunk in the ledger row's `carry`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from visual_r1.config import RunConfig
from visual_r1.data.batches import batch_indices
from visual_r1.data.stored import StoredProblems
from visual_r1.ledger import LedgerRow
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
from visual_r1.rl.measured_file import load_measured, save_measured
from visual_r1.rl.rollouts import RolloutGroup


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
