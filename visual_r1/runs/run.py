"""A run at work: what its stages have in common."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visual_r1.backend.backend import Backend, open_backend
from visual_r1.backend.sessions import reason_to_wait
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.policy.policy import Policy, open_policy
from visual_r1.prices import prices_of
from visual_r1.progress import Progress, open_progress
from visual_r1.runs.alarms import AlarmLog
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations


@dataclass(frozen=True, slots=True)
class Run:
    """What is wanted, where it is kept, what it learns from, and what it is done with.

    `folder` is `config.run_dir`, but for a replay, which has one of its own.
    """

    config: RunConfig
    folder: Path
    dataset: Dataset
    backend: Backend
    progress: Progress

    @property
    def ledger(self) -> Ledger:
        """The checkpoints that there are."""
        return Ledger(self.folder)

    @property
    def journal(self) -> Journal:
        """The metrics and rollouts of each step."""
        return Journal(self.folder)

    @property
    def validations(self) -> Validations:
        """What validation found."""
        return Validations(self.folder)

    @property
    def alarms(self) -> AlarmLog:
        """What the alarms found."""
        return AlarmLog(self.folder)

    def policy(self) -> Policy:
        """The policy of the run; why the server lets its clients wait is said on `progress`."""

        def watch() -> None:
            self.backend.check()
            self.progress.waiting(reason_to_wait())

        return open_policy(self.config, watch, prices_of(self.config, self.backend.kind))


@contextmanager
def open_run(config: RunConfig, dataset: Dataset) -> Generator[Run]:
    """The run of `config` for the block, with its backend and a progress bar."""
    with open_backend(config) as backend, open_progress() as progress:
        yield Run(config, config.run_dir, dataset, backend, progress)
