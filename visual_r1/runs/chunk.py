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
from functools import partial
from pathlib import Path
from statistics import fmean

import tinker

from visual_r1.backend.backend import Backend
from visual_r1.backend.sessions import reason_to_wait
from visual_r1.backend.waiting import CONTROL_LIMIT_S, SAVE_LIMIT_S, call, wait
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.data.problem import Problem
from visual_r1.hashing import stable_seed
from visual_r1.models.processor import load_processor
from visual_r1.policy.policy import Policy, RolloutGroup
from visual_r1.prices import prices_of
from visual_r1.progress import Progress
from visual_r1.prompts.prompts import Prompter
from visual_r1.rl.curriculum import DrawnProblems
from visual_r1.rl.losses import loss_of
from visual_r1.rl.step import StepResult, train_step
from visual_r1.runs.folder import keep_files
from visual_r1.runs.journal import Journal
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.runs.probe import require_capable
from visual_r1.runs.problem_draws import Draws, PromptsAhead, open_draws
from visual_r1.runs.retention import keep_up


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """Which steps a chunk runs: `first` up to, not including, `end`; `number` names its files."""

    number: int
    first: int
    end: int


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
    keep_up(config, backend, Ledger(run_dir))
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
    policy = open_policy(config, backend, progress)

    service = backend.connect()
    ended = False
    try:
        training = open_training(config, service, start, policy)
        # The reward holds the KL to the base model.
        base = backend.sampler(None) if config.algorithm.kl_coefficient else None
        if start is None and backend.kind != "embedded":
            require_capable(training, policy, dataset.problems("train")[0], base)
        using = _Stepping(training, policy, base)
        problems = dataset.problems("train")
        draws = open_draws(config, problems, run_dir, start)
        results = _run_steps(using, problems, draws, plan, journal, progress)
        updates = (start.updates if start else 0) + sum(
            update.optimizer_steps
            for result in results
            if (update := result.metrics.update) is not None
        )
        is_last = plan.end >= config.train.steps
        began = time.monotonic()
        state_path, sampler_path = save_checkpoint(
            config, training, policy, plan.end, keep_for_ever=is_last
        )
        saving = time.monotonic() - began
        ended = True
    finally:
        backend.disconnect("success" if ended else "errored")

    journal.write_rollouts(plan.number, results)
    journal.add_to_last(seconds_checkpoint=round(saving, 3))
    journal.flush()
    carry = draws.carry(run_dir, plan.end)
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
        updates=updates,
        carry=carry,
    )
    ledger.append(row)
    return row


def open_policy(config: RunConfig, backend: Backend, progress: Progress | None = None) -> Policy:
    """The prompts, processor and watch that the steps of a chunk share.

    Why the server lets its clients wait is said on `progress`.
    """

    def watch() -> None:
        backend.check()
        if progress is not None:
            progress.waiting(reason_to_wait())

    processor = load_processor(config.model.name)
    prompter = Prompter(processor, config.prompt.template, config.model.max_pixels)
    return Policy(prompter, processor, config, watch, prices_of(config, backend.kind))


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


@dataclass(frozen=True, slots=True)
class _Stepping:
    """What every step of a chunk is run with."""

    training: tinker.TrainingClient
    policy: Policy
    base: tinker.SamplingClient | None


def _run_steps(
    using: _Stepping,
    problems: Sequence[Problem],
    draws: Draws,
    plan: ChunkPlan,
    journal: Journal,
    progress: Progress,
) -> list[StepResult]:
    train = using.policy.config.train
    results: list[StepResult] = []
    stage = f"training, steps {plan.first} to {plan.end - 1}"
    progress.start(stage, train.steps, "steps", done=plan.first)
    with PromptsAhead(using.policy.prompter.model_input) as ahead:
        policy = replace(using.policy, prompt_of=ahead.prompt)
        for step in range(plan.first, plan.end):
            draw = partial(_read, problems, draws, step)
            batch = ahead.problems(step, partial(draw, 0))
            begin_next = partial(_begin, ahead, problems, draws, step + 1, plan)
            if not draws.needs_samples:
                begin_next()
            observe = partial(_observe, draws, step, begin_next)
            result = train_step(using.training, policy, batch, step, using.base, draw, observe)
            progress.waiting(reason_to_wait())
            journal.append(result.metrics)
            results.append(result)
            progress.advance(1, **_means([result]))
    progress.finish(
        ", ".join(f"{name.replace('_', ' ')} {mean:.3f}" for name, mean in _means(results).items())
    )
    return results


def _read(problems: Sequence[Problem], draws: Draws, step: int, round: int) -> list[Problem]:
    return [problems[place] for place in draws.places(step, round)]


def _begin(
    ahead: PromptsAhead, problems: Sequence[Problem], draws: Draws, step: int, plan: ChunkPlan
) -> None:
    """Have the prompts of `step` built ahead, where it belongs to the chunk."""
    if step < plan.end:
        ahead.begin(step, partial(_read, problems, draws, step, 0))


def _observe(
    draws: Draws, step: int, begin_next: Callable[[], None], groups: Sequence[RolloutGroup]
) -> DrawnProblems | None:
    """The samples of `step` are there: the draw of the next one is known now at the latest."""
    drawn = draws.observe(step, groups)
    if draws.needs_samples:
        begin_next()
    return drawn


def _means(results: Sequence[StepResult]) -> dict[str, float]:
    """Reward, accuracy and accuracy from the scan alone, over the steps that have any."""
    seconds = [r.metrics.second for r in results]
    named = {
        "reward": [r.metrics.reward_mean for r in results],
        "accuracy": [r.metrics.accuracy for r in results],
        "second_pass": [second.accuracy for second in seconds if second is not None],
    }
    present = {name: [v for v in values if v is not None] for name, values in named.items()}
    return {name: fmean(values) for name, values in present.items() if values}
