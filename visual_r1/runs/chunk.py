"""A chunk: the steps between two checkpoints, and the unit of retry.

A chunk opens a fresh client from the ledger's newest state, runs its steps, saves state and
sampler weights, and appends a ledger row. Until that row is on the disk the chunk has not happened:
whoever starts again starts from the row before, and what the broken chunk wrote down is written
again. So no optimizer step is lost or applied twice.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean

import tinker

from visual_r1.backend.backend import Backend
from visual_r1.backend.sessions import reason_to_wait
from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, call, wait
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.hashing import stable_seed
from visual_r1.policy.policy import Policy, open_policy
from visual_r1.prices import prices_of
from visual_r1.progress import Progress
from visual_r1.rl.batches import Batches
from visual_r1.rl.losses import loss_of
from visual_r1.rl.step import StepResult, train_steps
from visual_r1.runs.curriculum_state import open_order, save_order
from visual_r1.runs.folder import keep_files
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.probe import require_capable
from visual_r1.runs.retention import renew_and_prune


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """Which steps a chunk runs: `first` up to, not including, `end`; `number` names its files."""

    number: int
    first: int
    end: int

    @property
    def steps(self) -> range:
        """The numbers of its steps."""
        return range(self.first, self.end)


def plan_chunk(config: RunConfig, first: int) -> ChunkPlan:
    """The chunk that starts at step `first`; it ends at the next multiple of `chunk_steps`.

    So checkpoints fall on the same steps wherever a run was interrupted or made longer.
    """
    train = config.train
    number = first // train.chunk_steps
    return ChunkPlan(number, first, min(train.steps, (number + 1) * train.chunk_steps))


def train_chunk(
    config: RunConfig,
    backend: Backend,
    dataset: Dataset,
    run_dir: Path,
    start: LedgerRow | None,
    progress: Progress,
) -> LedgerRow:
    """Train from `start` (None: from the beginning) to the next checkpoint; return its row.

    Where the server fails, the chunk is begun again in a new session, as often as
    `backend.recoveries_per_hour` allows. Running it again after it has ended returns the row that
    is there. Raises `BackendError` when the server failed too often, `RunError` when the loss is
    not finite; both leave ledger and checkpoints as they were.
    """
    row = backend.recoveries.run(
        lambda: _train_once(config, backend, dataset, run_dir, start, progress), "training"
    )
    renew_and_prune(config, backend, Ledger(run_dir))
    return row


def _train_once(
    config: RunConfig,
    backend: Backend,
    dataset: Dataset,
    run_dir: Path,
    start: LedgerRow | None,
    progress: Progress,
) -> LedgerRow:
    plan = plan_chunk(config, start.step if start else 0)
    ledger, journal = Ledger(run_dir), Journal(run_dir)
    if (done := ledger.at_step(plan.end)) is not None:
        return done
    loss_of(config.train, config.algorithm)
    keep_files(config, run_dir, anew=start is None)
    journal.rewind(plan.first)
    policy = policy_of(config, backend, progress)
    problems = dataset.problems("train")
    order = open_order(config, problems, run_dir, start)
    results: list[StepResult] = []

    def record(result: StepResult) -> None:
        progress.waiting(reason_to_wait())
        journal.append(result.metrics)
        results.append(result)
        progress.advance(1, **_means([result]))

    with backend.session() as service:
        training = open_training(config, service, start, policy)
        # The reward holds the KL to the base model.
        base = backend.sampler(None) if config.algorithm.kl_coefficient else None
        if start is None and backend.kind != "embedded":
            require_capable(training, policy, problems[0], base)
        stage = f"training, steps {plan.first} to {plan.end - 1}"
        progress.start(stage, config.train.steps, "steps", done=plan.first)
        with Batches(problems, order, policy.prompter.model_input, plan.steps) as batches:
            train_steps(plan.steps, training, policy, batches, base, record)
        means = _means(results)
        progress.finish(", ".join(f"{n.replace('_', ' ')} {m:.3f}" for n, m in means.items()))
        is_last = plan.end >= config.train.steps
        began = time.monotonic()
        state_path, sampler_path = save_checkpoint(
            config, training, policy, plan.end, keep_for_ever=is_last
        )
        saving = time.monotonic() - began

    journal.write_rollouts(plan.number, results)
    journal.add_to_last(seconds_checkpoint=round(saving, 3))
    journal.flush()
    updates = [result.metrics.update for result in results]
    now = datetime.now(UTC)
    lifetime = timedelta(seconds=config.backend.checkpoint_ttl_seconds)
    row = LedgerRow(
        step=plan.end,
        state_path=state_path,
        sampler_path=sampler_path,
        expires_at=None if is_last else (now + lifetime).isoformat(timespec="seconds"),
        config_digest=config.digest(),
        dataset_digest=dataset.digest,
        backend=backend.kind,
        created_at=now.isoformat(timespec="seconds"),
        updates=(start.updates if start else 0)
        + sum(update.optimizer_steps for update in updates if update is not None),
        carry=save_order(run_dir, plan.end, order),
    )
    ledger.append(row)
    return row


def policy_of(config: RunConfig, backend: Backend, progress: Progress) -> Policy:
    """The policy of a run; why the server lets its clients wait is said on `progress`."""

    def watch() -> None:
        backend.check()
        progress.waiting(reason_to_wait())

    return open_policy(config, watch, prices_of(config, backend.kind))


def open_training(
    config: RunConfig, service: tinker.ServiceClient, start: LedgerRow | None, policy: Policy
) -> tinker.TrainingClient:
    """A client with the weights and optimizer state of `start`, or a new LoRA without one."""
    model = config.model
    if start is None:
        what = f"making a LoRA of {model.name}"
        creating = call(
            lambda: service.create_lora_training_client(
                base_model=model.name,
                rank=model.lora_rank,
                seed=stable_seed("lora", config.train.seed),
                train_mlp=model.train_mlp,
                train_attn=model.train_attn,
                train_unembed=model.train_unembed,
            ),
            what,
            CONTROL_LIMIT_S,
            policy.watch,
        )
        return wait(creating, what, SAVE_LIMIT_S, policy.watch)
    state, what = start.state_path, f"loading {start.state_path}"
    loading = call(
        lambda: service.create_training_client_from_state_with_optimizer(state),
        what,
        CONTROL_LIMIT_S,
        policy.watch,
    )
    return wait(loading, what, SAVE_LIMIT_S, policy.watch)


def save_checkpoint(
    config: RunConfig,
    training: tinker.TrainingClient,
    policy: Policy,
    step: int,
    *,
    keep_for_ever: bool,
) -> tuple[str, str]:
    """Save state and sampler weights; returns their `tinker://` paths."""
    name = f"step-{step:06d}"
    ttl = None if keep_for_ever else config.backend.checkpoint_ttl_seconds
    state = training.save_state(name, ttl_seconds=ttl)
    sampler = training.save_weights_for_sampler(name, ttl_seconds=ttl)
    what = f"saving the checkpoint of step {step}"
    saved_state = wait(state, what, SAVE_LIMIT_S, policy.watch)
    saved_sampler = wait(sampler, what, SAVE_LIMIT_S, policy.watch)
    return saved_state.path, saved_sampler.path


def _means(results: Sequence[StepResult]) -> dict[str, float]:
    """Reward, accuracy and accuracy from the scan alone, over the steps that have any."""
    seconds = [r.metrics.second for r in results]
    named = {
        "reward": [r.metrics.rewards.reward_mean for r in results],
        "accuracy": [r.metrics.samples.accuracy for r in results],
        "second_pass": [second.accuracy for second in seconds if second is not None],
    }
    present = {name: [v for v in values if v is not None] for name, values in named.items()}
    return {name: fmean(values) for name, values in present.items() if values}
