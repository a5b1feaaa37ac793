"""Sampling ahead of the learner and learning in parts, on the real engine, within this process.

What a run comes to depends on its settings and samples, never on when an answer arrived.
"""

import gc
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tinker
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture

from trials.train_chunks import config
from visual_r1.backend.backend import Backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.exports.record import adapter_folder
from visual_r1.policy.policy import Rollout
from visual_r1.progress import Silent
from visual_r1.runs.chunk import train_chunk
from visual_r1.runs.export import export
from visual_r1.runs.folder import open_run_folder
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.proof import prove
from visual_r1.runs.run import Run

STEPS = 4


class Reversed:
    """Lets answers through when all that were asked for are there, the last one first."""

    def __init__(self) -> None:
        self._lock, self._asked = threading.Lock(), 0
        self._held: list[Callable[[], None]] = []
        self.moved = 0
        """How many answers came before one that was asked for earlier."""

    def hold(self, future: "tinker.APIFuture[Any]") -> "tinker.APIFuture[Any]":
        outer: Future[Any] = Future()
        with self._lock:
            self._asked += 1

        def arrived(inner: "Future[Any]") -> None:
            with self._lock:
                self._held.append(lambda: outer.set_result(inner.result()))
                if len(self._held) < self._asked:
                    return
                ready, self._held, self._asked = self._held[::-1], [], 0
                self.moved += len(ready) - 1
            for let_through in ready:
                let_through()

        future.future().add_done_callback(arrived)
        return AwaitableConcurrentFuture(outer)


@contextmanager
def reversed_answers() -> Generator[Reversed]:
    order = Reversed()
    sample = tinker.SamplingClient.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tinker.SamplingClient,
            "sample",
            lambda self, *args, **how: order.hold(sample(self, *args, **how)),
        )
        yield order


def settings(folder: Path, name: str, **more: dict[str, object]) -> RunConfig:
    base = config(folder).model_dump()
    base["run"] = {"name": name}
    base["train"] |= {"steps": STEPS, "chunk_steps": STEPS, "batch_size": 4, "learning_rate": 1e-3}
    for section, values in more.items():
        base[section] |= values
    return RunConfig.model_validate(base)


class Trained:
    """A run of one chunk, and what it came to."""

    def __init__(self, mine: RunConfig, backend: Backend, dataset: Dataset) -> None:
        with open_run_folder(mine) as self.run_dir:
            self.run = Run(mine, self.run_dir, dataset, backend, Silent())
            row = train_chunk(self.run, None)
            export(self.run, row)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, without their seconds."""
        return [
            {name: value for name, value in row.items() if not name.startswith("seconds_")}
            for row in Journal(self.run_dir).rows()
        ]

    def outcome(self) -> tuple[bytes, list[dict[str, Any]], list[dict[str, Any]]]:
        (path,) = Journal(self.run_dir).chunks()
        weights = (adapter_folder(self.run_dir) / "adapter_model.safetensors").read_bytes()
        return weights, self.rows, read_rollouts(path).to_pylist()


def test_a_chunk_keeps_no_samples_of_the_steps_that_are_done(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    """However many steps lie between two checkpoints; their rows are kept, as a table."""
    mine, kept = settings(folder, "kept"), list[int]()

    def told(_: object) -> None:
        gc.collect()
        kept.append(sum(isinstance(one, Rollout) for one in gc.get_objects()))

    with open_run_folder(mine) as run_dir:
        train_chunk(Run(mine, run_dir, dataset, backend, Silent()), None, told)
    (path,) = Journal(run_dir).chunks()
    a_step = mine.train.batch_size * mine.train.group_size
    assert len(read_rollouts(path)) == STEPS * a_step
    assert max(kept) - min(kept) <= a_step


AHEAD: dict[str, dict[str, object]] = {
    "algorithm": {"max_staleness": 2, "dynamic_rounds": 1},
    "train": {"skip_without_contrast": True},
    "pipeline": {"parts": 3},
}


@pytest.fixture(scope="module")
def ahead(folder: Path, backend: Backend, dataset: Dataset) -> Trained:
    return Trained(settings(folder, "ahead", **AHEAD), backend, dataset)


def test_a_stale_run_says_so_and_its_chunk_can_be_replayed(ahead: Trained) -> None:
    assert [row["staleness"] for row in ahead.rows] == [0, 1, 2, 2]
    kls = [row["kl_sampler_learner"] for row in ahead.rows]
    assert kls[0] < 1e-9 < 1e-7 < min(kls[1:])  # the weights have moved since they sampled
    by_step = {row["step"]: row["staleness"] for row in ahead.outcome()[2]}
    assert by_step == {0: 0, 1: 1, 2: 2, 3: 2}
    assert prove(ahead.run).holds


@pytest.mark.parametrize("way", ["ahead", "whole"])
def test_when_an_answer_comes_makes_no_difference(
    ahead: Trained, folder: Path, backend: Backend, dataset: Dataset, way: str
) -> None:
    more = AHEAD if way == "ahead" else {"train": {"steps": 2}}
    one = ahead if way == "ahead" else Trained(settings(folder, way, **more), backend, dataset)
    with reversed_answers() as order:
        other = Trained(settings(folder, f"{way} reversed", **more), backend, dataset)
    assert order.moved > 2
    assert one.outcome() == other.outcome()


def test_parts_add_up_to_the_gradient_of_the_whole(
    folder: Path, backend: Backend, dataset: Dataset
) -> None:
    """And each of them is a call of its own."""
    sent: list[int] = []
    original = tinker.TrainingClient.forward_backward

    def counted(self: tinker.TrainingClient, data: list[tinker.Datum], *how: Any) -> Any:
        sent.append(len(data))
        return original(self, data, *how)

    norms: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinker.TrainingClient, "forward_backward", counted)
        for parts in (1, 2):
            mine = settings(folder, f"in {parts}", pipeline={"parts": parts}, train={"steps": 1})
            norms += [row["grad_norm"] for row in Trained(mine, backend, dataset).rows]
    assert len(sent) == 3 and sent[0] == sent[1] + sent[2] and min(sent) > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
