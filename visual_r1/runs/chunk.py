"""A chunk: the steps between two checkpoints, and the unit of retry.

A chunk opens a fresh client from the ledger's newest state, runs its steps, saves state and
sampler weights, and appends a ledger row. Until that row is on the disk the chunk has not happened:
whoever starts again starts from the row before, and what the broken chunk wrote down is written
again. So no optimizer step is lost or applied twice.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import fmean

import tinker

from visual_r1.backend.endpoint import checkpoint_lifetime
from visual_r1.backend.sessions import reason_to_wait
from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, call, wait
from visual_r1.config import RunConfig
from visual_r1.hashing import file_digest, stable_seed
from visual_r1.policy.policy import Policy
from visual_r1.printing import open_logger
from visual_r1.rl.batches import Batches
from visual_r1.rl.losses import loss_of
from visual_r1.rl.step import StepResult, train_steps
from visual_r1.runs.chunk_length import chunk_in_words
from visual_r1.runs.curriculum_state import open_order, save_order
from visual_r1.runs.folder import copies, keep_files
from visual_r1.runs.journal import MetricsRow
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.probe import require_capable
from visual_r1.runs.retention import renew_and_prune
from visual_r1.runs.run import Run
from visual_r1.runs.training_rows import LEFT_OUT_FILE, carried, training_problems

logger = open_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """Which steps a chunk runs: `first` up to, not including, `end`; `number` names its files.

    `is_last` says that the run ends with it.
    """

    number: int
    first: int
    end: int
    is_last: bool

    @property
    def steps(self) -> range:
        """The numbers of its steps."""
        return range(self.first, self.end)

    @property
    def in_words(self) -> str:
        """`steps 5 to 9`, by their numbers in metrics.jsonl."""
        return f"steps {self.first} to {self.end - 1}"


def plan_chunk(config: RunConfig, first: int) -> ChunkPlan:
    """The chunk that starts at step `first`; it ends at the next multiple of `chunk_steps`.

    So checkpoints fall on the same steps wherever a run was interrupted or made longer.
    """
    train = config.train
    number = first // train.chunk_steps
    end = min(train.steps, (number + 1) * train.chunk_steps)
    return ChunkPlan(number, first, end, is_last=end >= train.steps)


def train_chunk(
    run: Run, start: LedgerRow | None, told: Callable[[MetricsRow], object] = lambda _: None
) -> LedgerRow:
    """Train from `start` (None: from the beginning) to the next checkpoint; return its row.

    `told` is called with the metrics of each step that is done; again where it is done again.

    Where the server fails, the chunk is begun again in a new session, as often as
    `backend.recoveries_per_hour` allows. Running it again after it has ended returns the row that
    is there. Raises `BackendError` when the server failed too often, `RunError` when the loss is
    not finite; both leave ledger and checkpoints as they were.
    """
    plan = plan_chunk(run.config, start.step if start else 0)
    # A run that was made longer has its old last checkpoint within this chunk.
    done = next((row for row in run.ledger.rows() if row.step > plan.first), None)
    if done is not None:
        return done
    row = run.backend.recoveries.run(lambda: _train_once(run, start, plan, told), "training")
    renew_and_prune(run)
    return row


def _train_once(
    run: Run, start: LedgerRow | None, plan: ChunkPlan, told: Callable[[MetricsRow], object]
) -> LedgerRow:
    config, backend, progress = run.config, run.backend, run.progress
    loss_of(config.train, config.algorithm)
    keep_files(config, run.folder, anew=start is None)
    run.journal.rewind(plan.first)
    policy = run.policy()
    problems = training_problems(config, run.dataset, start)
    order = open_order(config, problems, run.folder, start)
    results: list[StepResult] = []

    def record(result: StepResult) -> None:
        progress.waiting(reason_to_wait())
        run.journal.append(result.metrics)
        results.append(result)
        progress.advance(1, **_means([result]))
        told(result.metrics.row())

    with backend.session() as service:
        training = open_training(config, service, start, policy)
        # The reward holds the KL to the base model.
        base = backend.sampler(None) if config.algorithm.kl_coefficient else None
        if start is None and backend.kind != "embedded":
            require_capable(training, policy, problems[0], base)
        progress.start(f"training, {plan.in_words}", config.train.steps, "steps", done=plan.first)
        with Batches(problems, order, policy.prompter.model_input, plan.steps) as batches:
            began = time.monotonic()
            train_steps(plan.steps, training, policy, batches, base, record)
            training_s = time.monotonic() - began
        means = _means(results)
        progress.finish(", ".join(f"{n.replace('_', ' ')} {m:.3f}" for n, m in means.items()))
        began = time.monotonic()
        paths = save_checkpoint(training, policy, plan, _lifetime_s(run, plan))
        saving = time.monotonic() - began

    rollouts = run.journal.write_rollouts(plan.number, results, run.ledger.digests())
    run.journal.add_to_last(seconds_checkpoint=round(saving, 3))
    run.journal.flush()
    carry = save_order(run.folder, plan.end, order)
    kept = {
        place: file_digest(run.folder / place) for place in (*carry.values(), *copies(run.folder))
    }
    left_out = carried(problems, run.dataset)
    if left_out:
        kept[LEFT_OUT_FILE] = file_digest(config.run_dir / LEFT_OUT_FILE)
    if (last := run.journal.digest_of(plan.end - 1)) is not None:
        kept[run.journal.metrics_path.name] = last
    row = _row(run, plan, start, paths, results)
    alarms = run.alarms.path.name
    if (last := run.alarms.digest_of(row.lines[alarms])) is not None:
        kept[alarms] = last
    digests = run.journal.rollouts_digest(rollouts) | kept
    row = replace(row, carry=carry | left_out, digests=digests)
    run.ledger.append(row)
    if start is None:
        says, advice = chunk_in_words(len(results), training_s / len(results), saving)
        logger.info("The first %s. %s", says.removeprefix("a "), advice)
    return row


def _row(
    run: Run,
    plan: ChunkPlan,
    start: LedgerRow | None,
    paths: tuple[str, str],
    results: Sequence[StepResult],
) -> LedgerRow:
    state_path, sampler_path = paths
    updates = [result.metrics.update for result in results]
    now = datetime.now(UTC)
    lifetime_s = _lifetime_s(run, plan)
    ends = None if lifetime_s is None else now + timedelta(seconds=lifetime_s)
    return LedgerRow(
        step=plan.end,
        state_path=state_path,
        sampler_path=sampler_path,
        expires_at=None if ends is None else ends.isoformat(timespec="seconds"),
        config_digest=run.config.digest(),
        dataset_digest=run.dataset.digest,
        backend=run.backend.kind,
        created_at=now.isoformat(timespec="seconds"),
        updates=(start.updates if start else 0)
        + sum(update.optimizer_steps for update in updates if update is not None),
        periodic=not plan.is_last and lifetime_s is None,
        lines={
            "validation.jsonl": len(run.validations.rows()),
            "alarms.jsonl": len(run.alarms.findings()),
        },
    )


def _lifetime_s(run: Run, plan: ChunkPlan) -> int | None:
    """Seconds that the chunk's checkpoint lives; None is for ever."""
    return None if plan.is_last else checkpoint_lifetime(run.config, run.backend.kind)


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
    training: tinker.TrainingClient, policy: Policy, plan: ChunkPlan, ttl: int | None
) -> tuple[str, str]:
    """Save state and sampler weights at the end of a chunk; returns their `tinker://` paths.

    They live `ttl` seconds; None is for ever.
    """
    name = f"step-{plan.end:06d}"
    state = training.save_state(name, ttl_seconds=ttl)
    sampler = training.save_weights_for_sampler(name, ttl_seconds=ttl)
    what = f"saving the checkpoint of step {plan.end}"
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
