"""What a run will ask of the server (tokens, hours, money), and of the embedded engine's disk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from visual_r1.config import RunConfig
from visual_r1.doctor.evidence import Evidence, share_without_contrast
from visual_r1.doctor.prompts import PromptSizes
from visual_r1.engine.store.budget import MAX_DISK_VARIABLE, parse_size
from visual_r1.engine.store.ephemeral import EPHEMERAL_BYTES
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.store.lifetimes import at_start
from visual_r1.engine.types import LoraSpec
from visual_r1.evaluation.conditions import passes_of
from visual_r1.prices import NO_TOKENS, Tokens
from visual_r1.rl.step_passes import StepPasses, step_passes
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import validated_steps

# Neither sampling nor training: imports, Prefect's server and the engine, saving, the report.
# Wall time of `train_flow.py --train.steps 4 --train.batch_size 4` less its evaluations, steps and
# preparation, on two shared x86-64 cores: 15.6 and 15.5 s, in a new folder 20.4 and 21.1 s. And the
# preparation of its 4,864 drawn problems: 7.9 and 7.5 s.
START_SECONDS = 18.0
PREPARE_SECONDS = 0.0016

Bound = Literal["least", "about", "most"]
"""Whether a step is to take no less than is foretold, about as much, or no more."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the whole run asks for, its two evaluations and its validations included.

    With `at_most`, nothing was measured: each answer is taken to be as long as it may be, and each
    step to take all rounds and second passes that it may.
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
    bound: Bound = "about" if measured is not None else "most"
    step = step_tokens(config, prompts, answer, share, bound)
    evaluations = evaluation_tokens(config, prompts, answer, test_rows) * 2
    validation = validation_tokens(config, prompts, answer, validation_rows)
    evaluations += validation * len(validated_steps(config))
    checkpoints = math.ceil(config.train.steps / config.train.chunk_steps)
    evaluations += held_out_tokens(config, prompts, answer, validation_rows) * (1 + checkpoints)
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
    config: RunConfig,
    prompts: PromptSizes,
    answer: float,
    share: float | None,
    bound: Bound = "about",
) -> Tokens:
    """One step with answers of `answer` tokens, where `share` of the groups have no contrast (None:
    not known, so that as many further rounds are asked for as may be).

    With the bound `most` no step takes more, if no answer is longer; with `least` it takes one
    round, and finds no scan to read.
    """
    train, passes = config.train, step_passes(config)
    if config.sft.responses is not None:  # it samples nothing; its responses are taken for answers
        return Tokens(train=passes.learnt * train.batch_size * (prompts.mean + answer))
    rounds, kept, scans = _expected(config, passes, share)
    if bound == "most":
        rounds, kept, scans = passes.rounds, 1.0, passes.scans
    elif bound == "least":
        rounds, scans = 1, 0
    problems = rounds * train.batch_size
    samples = problems * train.group_size
    unseen = prompts.unseen

    asked = Tokens.asked(prompts.mean, train.group_size, train.group_size * answer) * problems
    # Each scan is a prompt of its own, without the image; at most as long as a response.
    asked += Tokens(prefill=unseen + answer, sample=answer) * (samples * scans)
    if passes.question_only:
        asked += Tokens.asked(unseen, train.group_size, train.group_size * answer) * problems
    if passes.scored:
        asked += Tokens(prefill=samples * (prompts.mean + answer), sample=samples)
    # However many rounds there are, no more than a batch of groups is learnt from.
    learnt = kept * train.batch_size * train.group_size * (prompts.mean + answer)
    return asked + Tokens(train=learnt * passes.learnt)


def _expected(config: RunConfig, passes: StepPasses, share: float | None) -> tuple[int, float, int]:
    """Rounds, the share of a batch of groups that is learnt from, and the scans of a sample."""
    # Scans that led to the answer are read again, and few of those once more.
    scans = min(passes.scans, 2)
    if not config.train.skip_without_contrast:
        return 1, 1.0, scans
    if share is None:
        return passes.rounds, 1.0, scans
    rounds = passes.rounds if share >= 1 else min(passes.rounds, math.ceil(1 / (1 - share)))
    # `share` is of answers to the first pass: where those agree, scans may tell samples apart.
    kept = 1.0 if passes.scans else min(rounds * (1 - share), 1.0)
    return rounds, kept, scans


def held_out_tokens(
    config: RunConfig, prompts: PromptSizes, answer: float, validation_rows: int
) -> Tokens:
    """The loss of the validation problems, which a supervised run measures before its first step
    and at each checkpoint: one forward."""
    if config.sft.responses is None:
        return NO_TOKENS
    used = min(config.validation.problems or validation_rows, validation_rows)
    return Tokens(train=used * (prompts.mean + answer))


def evaluation_tokens(
    config: RunConfig, prompts: PromptSizes, answer: float, test_rows: int
) -> Tokens:
    """One evaluation on the test problems, in all passes that it makes."""
    evaluation, unseen = config.evaluation, prompts.unseen
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
