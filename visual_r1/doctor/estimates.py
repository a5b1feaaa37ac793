"""What a run will ask of the server (tokens, hours, money), and of the embedded engine's disk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visual_r1.config import RunConfig
from visual_r1.doctor.evidence import Evidence, share_without_contrast
from visual_r1.doctor.prompts import PromptSizes
from visual_r1.engine.store.budget import MAX_DISK_VARIABLE, parse_size
from visual_r1.engine.store.ephemeral import EPHEMERAL_BYTES
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.lifetimes import at_start
from visual_r1.engine.types import LoraSpec
from visual_r1.evaluation.conditions import passes_of
from visual_r1.prices import Tokens
from visual_r1.rl.losses import loss_of
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import validated_steps

# Neither sampling nor training: imports, Prefect's server and the engine, saving, the report.
# Wall time of `train_flow.py --train.steps 4 --train.batch_size 4` less its evaluations, steps and
# preparation, on two shared x86-64 cores: 15.6 and 15.5 s, in a new folder 20.4 and 21.1 s. And the
# preparation of its 4,864 drawn problems: 7.9 and 7.5 s.
START_SECONDS = 18.0
PREPARE_SECONDS = 0.0016


@dataclass(frozen=True, slots=True)
class Workload:
    """What the whole run asks for, its two evaluations and its validations included.

    With `at_most`, nothing was measured and each answer is taken to be as long as it may be.
    """

    tokens: Tokens
    at_most: bool
    step_seconds: float | None
    hours: float | None


def workload(
    config: RunConfig,
    prompts: PromptSizes,
    evidence: Evidence | None,
    test_rows: int,
    validation_rows: int = 0,
    rows_to_prepare: int = 0,
) -> Workload:
    """Predict the run from its prompts and from what was measured before.

    `rows_to_prepare` are those of a dataset that is not there yet.
    """
    measured = evidence.response_tokens if evidence else None
    answer = measured if measured is not None else float(config.sampling.max_new_tokens)
    share = share_without_contrast(evidence.counts, config.train.group_size) if evidence else None
    step = step_tokens(config, prompts, answer, share)
    evaluations = evaluation_tokens(config, prompts, answer, test_rows) * 2
    validation = validation_tokens(config, prompts, answer, validation_rows)
    evaluations += validation * len(validated_steps(config))
    seconds = hours = None
    if evidence is not None and evidence.sample_rate:
        training = step.train / evidence.train_rate if evidence.train_rate else 0.0
        seconds = step.sample / evidence.sample_rate + training
        working = config.train.steps * seconds + evaluations.sample / evidence.sample_rate
        hours = (START_SECONDS + PREPARE_SECONDS * rows_to_prepare + working) / 3600
    return Workload(
        tokens=step * config.train.steps + evaluations,
        at_most=measured is None,
        step_seconds=seconds,
        hours=hours,
    )


def step_tokens(
    config: RunConfig, prompts: PromptSizes, answer: float, share: float | None
) -> Tokens:
    """One step with answers of `answer` tokens, where `share` of the groups have no contrast (None:
    not known)."""
    train, algorithm, second = config.train, config.algorithm, config.second_pass
    if config.sft.responses is not None:  # it samples nothing; its responses are taken for answers
        return Tokens(train=algorithm.epochs * train.batch_size * (prompts.mean + answer))
    rounds, kept = 1.0, 1.0
    if train.skip_without_contrast and share is not None:
        # So many rounds fill the batch, and `dynamic_rounds` of them may be further ones.
        most = 1.0 + algorithm.dynamic_rounds
        rounds = most if share >= 1 else min(most, math.ceil(1 / (1 - share)))
        kept = min(rounds * (1 - share), 1.0)
    problems = rounds * train.batch_size
    samples = problems * train.group_size
    unseen = prompts.mean - prompts.image_mean

    asked = Tokens.asked(prompts.mean, train.group_size, train.group_size * answer) * problems
    if second.enabled:
        # Each scan is a prompt of its own, without the image; at most as long as a response.
        passes = samples * (1 + second.moved_numbers)  # at most: again where the first was right
        asked += Tokens(prefill=passes * (unseen + answer), sample=passes * answer)
    if second.enabled and second.minus_question_only:
        asked += Tokens.asked(unseen, train.group_size, train.group_size * answer) * problems
    if algorithm.kl_coefficient:
        asked += Tokens(prefill=samples * (prompts.mean + answer), sample=samples)
    learnt = kept * train.batch_size * train.group_size * (prompts.mean + answer)
    learnt *= algorithm.epochs * loss_of(train, algorithm).passes
    return asked + Tokens(train=learnt)


def evaluation_tokens(
    config: RunConfig, prompts: PromptSizes, answer: float, test_rows: int
) -> Tokens:
    """One evaluation on the test problems, in all passes that it makes."""
    evaluation, unseen = config.evaluation, prompts.mean - prompts.image_mean
    one = Tokens()
    for name in passes_of(config):
        match name:
            case "sampled":
                one += Tokens.asked(prompts.mean, evaluation.samples, evaluation.samples * answer)
            case "question_only":
                one += Tokens(unseen, answer)
            case "scan_only":
                one += Tokens(unseen + answer, answer)
            case _:
                one += Tokens.asked(prompts.mean, 1, answer)
    return one * evaluation.count(test_rows)


def validation_tokens(
    config: RunConfig, prompts: PromptSizes, answer: float, validation_rows: int
) -> Tokens:
    """One validation, greedy and blind."""
    validation = config.validation
    validated = min(validation.problems or validation_rows, validation_rows)
    return Tokens.asked(prompts.mean, 1, answer) * (validated * (1 + validation.blind))


# Weights alone for the sampler; weights and both of Adam's moments for going on.
ADAPTERS_A_CHECKPOINT = 4
# Names, shapes and manifests: a hundredth of the shipped model's, less of any other's.
OVERHEAD = 1.02


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes in the engine's `home`: there now, and `needed` beside that at the fullest moment.

    `limit` None is no limit but the disk's; `needed` None is not known, for the model's files are
    not on this machine.
    """

    home: Path
    used: int
    limit: int | None
    needed: int | None


def room_for(config: RunConfig, environ: Mapping[str, str]) -> Room:
    """Look at the engine's home, and predict what the rest of the run saves there.

    Raises `ConfigError` where the limit is no size, `RunError` where the ledger is damaged.
    """
    home = HomeFolder(config.backend.engine_home or config.state_dir / "engine")
    text = environ.get(MAX_DISK_VARIABLE, "")
    now = datetime.now(UTC)
    # What the engine clears when it starts is no longer there.
    taken_over = (at_start(one, now, of_run=True) for one in home.read_checkpoints())
    gone = sum(one.size_bytes for one in taken_over if one.expired(now))
    gone += sum(file.stat().st_size for file in home.ephemeral.glob("*"))
    return Room(
        home=home.path.absolute(),
        used=home.used_bytes() - gone,
        limit=parse_size(text) if text else None,
        needed=needed_bytes(config),
    )


def needed_bytes(config: RunConfig) -> int | None:
    """What the rest of the run adds to the engine's home, at its fullest moment.

    Those are its checkpoints, less what it deletes itself (`backend.keep_checkpoints`), and beside
    the last of them the sampler weights of each of its chunk's steps; then the exported adapter.
    """
    # Here and not above: PEFT takes seconds, and no run needs it to train.
    from visual_r1.engine.compute.lora import adapter_bytes

    model = config.model
    adapter = adapter_bytes(
        model.name,
        LoraSpec(
            model.lora_rank,
            train_mlp=model.train_mlp,
            train_attn=model.train_attn,
            train_unembed=model.train_unembed,
        ),
    )
    if adapter is None:
        return None
    checkpoints = _further_checkpoints(config)
    if checkpoints is None:
        return 0
    steps = min(config.train.chunk_steps, config.train.steps)
    unnamed = min(steps * adapter, EPHEMERAL_BYTES)
    return math.ceil(OVERHEAD * (checkpoints * ADAPTERS_A_CHECKPOINT * adapter + unnamed))


def _further_checkpoints(config: RunConfig) -> int | None:
    """How many more than now there are at most at once; None where none is left to make."""
    rows = Ledger(config.run_dir).rows()
    size = config.train.chunk_steps
    ahead = math.ceil(config.train.steps / size) - (rows[-1].step // size if rows else 0)
    if ahead <= 0 or (rows and rows[-1].step >= config.train.steps):
        return None
    keep = config.backend.keep_checkpoints
    if keep is None:
        return ahead
    # One more while it is saved, before an old one goes.
    most = keep + bool(config.backend.keep_best and config.validation.every) + 1
    return min(ahead, max(most - len(rows), 0))
