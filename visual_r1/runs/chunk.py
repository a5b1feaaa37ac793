"""A chunk: the steps between two checkpoints, and the unit of retry.

A chunk opens a fresh client from the ledger's newest state, runs its steps, saves state and
sampler weights, and appends a ledger row. Until that row is on the disk the chunk has not happened:
whoever starts again starts from the row before, and what the broken chunk wrote down is written
again. So no optimizer step is lost or applied twice.

All of this is the same whether the steps sample and compare (`rl.step`) or learn responses that are
there (`sft.step`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import tinker

from visual_r1.backend.endpoint import checkpoint_lifetime
from visual_r1.backend.recovery import FROM_CHECKPOINT
from visual_r1.backend.sessions import reason_to_wait
from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, call, wait
from visual_r1.config import RunConfig
from visual_r1.data.problem import Problem
from visual_r1.hashing import file_digest, stable_seed
from visual_r1.policy.policy import Policy
from visual_r1.printing import open_logger
from visual_r1.rl.batches import Batches
from visual_r1.rl.learning import parts_of
from visual_r1.rl.losses import loss_of
from visual_r1.rl.metrics import StepMetrics
from visual_r1.rl.step import StepResult, train_steps
from visual_r1.runs.chunk_length import chunk_in_words
from visual_r1.runs.curriculum_state import open_order, save_order
from visual_r1.runs.folder import copies, keep_files
from visual_r1.runs.journal import MetricsRow, rollout_table
from visual_r1.runs.labels import LABELS_FILE, labels_of_run
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.origin import START_FILE
from visual_r1.runs.probe import require_capable
from visual_r1.runs.retention import renew_and_prune
from visual_r1.runs.run import Run
from visual_r1.runs.training_rows import LEFT_OUT_FILE, carried, has_tags, training_problems
from visual_r1.runs.validate import validation_problems
from visual_r1.sft.metrics import SupervisedMetrics, SupervisedResult
from visual_r1.sft.responses import Responses
from visual_r1.sft.step import learn_responses

logger = open_logger(__name__)

Result = StepResult | SupervisedResult
"""Of a step that sampled, or of one that learnt responses."""
Metrics = StepMetrics | SupervisedMetrics


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
    row = run.backend.recoveries.run(
        lambda: _train_once(run, start, plan, told), "training", FROM_CHECKPOINT
    )
    renew_and_prune(run)
    return row


def _train_once(
    run: Run, start: LedgerRow | None, plan: ChunkPlan, told: Callable[[MetricsRow], object]
) -> LedgerRow:
    config, backend, progress = run.config, run.backend, run.progress
    loss = loss_of(config.train, config.algorithm)
    if loss.own is not None and start is None:
        logger.info(
            "The loss %s is computed here, from a forward of each minibatch before its "
            "forward_backward: that is billed as training too, and counted so.",
            config.train.loss,
        )
    keep_files(config, run.folder, anew=start is None)
    run.journal.rewind(plan.first)
    policy = run.policy()
    problems = training_problems(config, run.dataset, start)
    order = open_order(config, problems, run.folder, start)
    column = config.sft.responses
    in_tags = has_tags(config)
    responses = Responses(policy, column, in_tags=in_tags) if column is not None else None
    steps: list[Metrics] = []
    sampled: list[Any] = []

    def record(result: Result) -> None:
        progress.waiting(reason_to_wait())
        run.journal.append(result.metrics)
        steps.append(result.metrics)
        if isinstance(result, StepResult):
            # As a table: a chunk may have hundreds of thousands of samples, which take 12 kB each.
            sampled.append(rollout_table([result]))
        progress.advance(1, **_means([result.metrics]))
        told(result.metrics.row())

    with backend.session() as service:
        training = open_training(config, service, start, policy)
        # The reward holds the KL to what the run began with: the base model, or its start.
        kl = config.algorithm.kl_coefficient
        base = backend.sampler(config.model.start_from) if kl else None
        if start is None and backend.kind != "embedded" and responses is None:
            require_capable(training, policy, problems[0], base)
        progress.start(f"training, {plan.in_words}", config.train.steps, "steps", done=plan.first)
        stale = config.algorithm.max_staleness
        build = policy.prompter.model_input
        with Batches(problems, order, build, plan.steps, stale) as batches:
            began = time.monotonic()
            if responses is None:
                parts = parts_of(config, in_turns=backend.in_turns)
                train_steps(plan.steps, training, policy, batches, base, record, parts=parts)
            else:
                held_out = held_out_problems(run, responses)
                learn_responses(plan.steps, training, policy, batches, responses, held_out, record)
            training_s = time.monotonic() - began
        means = _means(steps)
        progress.finish(", ".join(f"{n.replace('_', ' ')} {m:.3f}" for n, m in means.items()))
        began = time.monotonic()
        paths = save_checkpoint(training, policy, plan, _lifetime_s(run, plan))
        saving = time.monotonic() - began

    digests: dict[str, str] = {}
    if sampled:
        rollouts = run.journal.write_rollouts(plan.number, sampled, run.ledger.digests)
        digests = run.journal.rollouts_digest(rollouts)
    run.journal.add_to_last(seconds_checkpoint=round(saving, 3))
    run.journal.flush()
    carry = save_order(run.folder, plan.end, order)
    left_out = carried(problems, run.dataset)
    row = replace(_row(run, plan, start, paths, steps), carry=carry | left_out)
    row = replace(
        row, digests=digests | _digests(run, row, carry.values(), bool(left_out) or in_tags)
    )
    run.ledger.append(row)
    if start is None:
        says, advice = chunk_in_words(len(steps), training_s / len(steps), saving)
        logger.info("The first %s. %s", says.removeprefix("a "), advice)
    return row


def _row(
    run: Run,
    plan: ChunkPlan,
    start: LedgerRow | None,
    paths: tuple[str, str],
    steps: Sequence[Metrics],
) -> LedgerRow:
    state_path, sampler_path = paths
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
        updates=(start.updates if start else 0) + sum(step.optimizer_steps for step in steps),
        periodic=not plan.is_last and lifetime_s is None,
        lines={
            "validation.jsonl": len(run.validations.rows()),
            "alarms.jsonl": len(run.alarms.findings()),
        },
        started_from=run.config.model.start_from,
    )


def _digests(run: Run, row: LedgerRow, orders: Iterable[str], rows_matter: bool) -> dict[str, str]:
    """Those of the files that the run reads again; `orders` are those of the curriculum, and
    `rows_matter` where without `left_out.json` it would learn something else."""
    found = {place: file_digest(run.folder / place) for place in (*orders, *copies(run.folder))}
    of_the_beginning = run.config.run_dir
    for name in (START_FILE, LABELS_FILE):
        found |= _digest_where_there(of_the_beginning / name)
    if rows_matter:
        found |= _digest_where_there(of_the_beginning / LEFT_OUT_FILE)
    if (last := run.journal.digest_of(row.step - 1)) is not None:
        found[run.journal.metrics_path.name] = last
    alarms = run.alarms.path.name
    if (last := run.alarms.digest_of(row.lines[alarms])) is not None:
        found[alarms] = last
    return found


def _digest_where_there(file: Path) -> dict[str, str]:
    return {file.name: file_digest(file)} if file.is_file() else {}


def _lifetime_s(run: Run, plan: ChunkPlan) -> int | None:
    """Seconds that the chunk's checkpoint lives; None is for ever."""
    return None if plan.is_last else checkpoint_lifetime(run.config, run.backend.kind)


def open_training(
    config: RunConfig, service: tinker.ServiceClient, start: LedgerRow | None, policy: Policy
) -> tinker.TrainingClient:
    """A client with the weights and optimizer state of `start`; without one, the run begins.

    That is with `model.start_from`, or with a new LoRA.
    """
    model = config.model
    if start is None and model.start_from is None:
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
    state = start.state_path if start else model.start_from
    with_optimizer = start is not None or model.start_optimizer
    assert state is not None
    what = f"loading {state}"
    loading = call(
        lambda: (
            service.create_training_client_from_state_with_optimizer(state)
            if with_optimizer
            else service.create_training_client_from_state(state)
        ),
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


def _means(steps: Sequence[Metrics]) -> dict[str, float]:
    """What the steps show of themselves, each over those that have it."""
    present: dict[str, list[float]] = {}
    for step in steps:
        for name, value in step.shown().items():
            if value is not None:
                present.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in present.items()}


def held_out_problems(run: Run, responses: Responses) -> Sequence[Problem]:
    """The validation problems that a supervised run measures its loss on: those with a response, of
    the ones that validation uses."""
    if not run.dataset.counts.get("validation", 0):
        return []
    problems, chosen = validation_problems(run)
    relabelled = labels_of_run(run.config.run_dir).of("validation").answers
    return [
        problem
        for place in chosen
        if place not in relabelled and not responses.fault(problem := problems[place])
    ]
