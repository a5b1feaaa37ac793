"""Single checks: each looks at one thing and says how it is; some have nothing to say."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.filesize import decimal as size_text

from visual_r1.backend.endpoint import checkpoint_lifetime as backend_lifetime
from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig, why_whole
from visual_r1.data.problem import Split
from visual_r1.doctor.estimates import Room, Workload
from visual_r1.doctor.evidence import Evidence, share_without_contrast, smallest_group
from visual_r1.doctor.prompts import FirstRows, PromptSizes
from visual_r1.engine.store.budget import MAX_DISK_VARIABLE
from visual_r1.models import TINY_GEOMETRY, hub_id
from visual_r1.policy.policy import THINKING_TOKENS, cut_thoughts
from visual_r1.prompts.fit import SplitFit
from visual_r1.rl.learning import parts_of
from visual_r1.rl.losses import loss_of
from visual_r1.runs.budget import budgets_of, shown
from visual_r1.runs.chunk_length import chunk_in_words
from visual_r1.runs.left_out import ADVICE, asked_and_unfit, named, too_many
from visual_r1.wording import duration, percent

Severity = Literal["ok", "note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
EXIT_CODES: dict[Severity, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at: how it is, and what to do where it is not well.

    An error means that the run will fail or learn nothing; a warning, that it probably wastes time
    or money; a note is worth knowing.
    """

    severity: Severity
    subject: str
    says: str
    advice: str = ""


def exit_code(diagnoses: Sequence[Diagnosis]) -> int:
    """0 where all is well, 1 with a warning, 2 with an error."""
    return max((EXIT_CODES[one.severity] for one in diagnoses), default=0)


# LoRA wants about ten times the rate of full fine-tuning, whatever its rank ("LoRA Without Regret",
# Thinking Machines 2025); runs on Tinker that were published used 1e-5 to 8e-5 for GRPO.
LORA_RATES = (5e-6, 3e-4)
# The shipped model is a thousand times smaller: docs/learning.md.
TINY_RATES = (1e-4, 2e-3)
MOST_WITHOUT_CONTRAST = 0.5
GROUP_SIZES = (4, 8, 16, 32, 64)
# Answers that are cut off cannot be right, and say nothing about the answer they would have given.
MOST_TRUNCATED = 0.1
MOST_EPOCHS = 20
FEW_TEST_PROBLEMS = 400
ROOM_BYTES = 2**30


def learning_rate(config: RunConfig) -> Diagnosis:
    """Against the range that LoRA has been seen to learn in."""
    low, high = TINY_RATES if hub_id(config.model.name) == TINY_GEOMETRY else LORA_RATES
    rate = config.train.learning_rate
    says = f"{rate:g}; LoRA has been seen to learn between {low:g} and {high:g} on such a model"
    if low <= rate <= high:
        return Diagnosis("ok", "learning rate", says)
    harm = "It will hardly move" if rate < low else "It may destroy the policy"
    # The middle of the range on a logarithmic scale, in one digit.
    better = float(f"{(low * high) ** 0.5:.0e}")
    advice = f"{harm}: try --train.learning_rate {better:g}."
    return Diagnosis("warning", "learning rate", says, advice)


def schedule(config: RunConfig) -> Diagnosis | None:
    """Whether steps are left whose learning rate is 0."""
    settings, steps = config.optimizer, config.train.steps
    end = settings.schedule_steps
    if settings.schedule == "constant" or end is None or settings.final_fraction or end >= steps:
        return None
    which = f"step {end} changes" if end + 1 == steps else f"steps {end} to {steps - 1} change"
    return Diagnosis(
        "warning",
        "schedule",
        f"the learning rate is 0 from optimizer.schedule_steps {end} on: {which} nothing",
        f"--optimizer.schedule_steps {steps}, --train.steps {end}, or a rate that is left: "
        "--optimizer.final_fraction 0.1.",
    )


def gradient_clip(config: RunConfig) -> Diagnosis | None:
    """Whether the loss is divided twice, which leaves a clip that hardly ever binds."""
    settings, how = config.optimizer, config.algorithm.normalization
    per = settings.grad_clip_per
    if not settings.grad_clip_norm or per == "sum" or how == "none":
        return None
    return Diagnosis(
        "warning",
        "gradient clip",
        f"optimizer.grad_clip_per {per} raises the clip by the {per}s of a summed loss, and "
        f"algorithm.normalization {how} has divided the loss already: that divides twice",
        "--optimizer.grad_clip_per sum, or --algorithm.normalization none.",
    )


def loss(config: RunConfig) -> Diagnosis | None:
    """What the loss costs beside its update, or asks of the server."""
    name = config.train.loss
    chosen = loss_of(config.train, config.algorithm)
    if chosen.needs_provenance:
        says = (
            "the hosted service's own and an alpha there; nobody here could try it on the service"
        )
        return Diagnosis("note", "loss", f"{name} is {says}")
    if chosen.passes == 1:
        return None
    why = "it is computed here, from" if chosen.own else "its penalty needs"
    return Diagnosis(
        "note",
        "loss",
        f"{name} takes a forward ahead of each update, billed as training, for {why} the learner's "
        "log-probabilities: learning costs twice the tokens, and they are counted so",
    )


def streaming(config: RunConfig) -> Diagnosis:
    """Whether the batch of a step goes to the learner while it is sampled, and what prevents it."""
    embedded = choose_kind(config, os.environ) == "embedded"
    most = config.algorithm.max_staleness
    sampled = "1 step is" if most == 1 else f"{most} steps are"
    ahead = f"; up to {sampled} sampled ahead of the learner" if most else ""
    if why := why_whole(config.train, config.algorithm):
        says = f"the batch goes to the learner as a whole, for {why}{ahead}"
        return Diagnosis("note", "streaming", says)
    parts = parts_of(config, in_turns=embedded)
    if parts == 1:
        says = f"groups are graded as they come, and learnt from in one call{ahead}"
        return Diagnosis("ok", "streaming", says)
    unless = "" if config.pipeline.parts else ", unless the server samples and trains in turns"
    each = f"each when it is complete{unless}"
    says = f"the batch goes to the learner in up to {parts} parts, {each}{ahead}"
    return Diagnosis("ok", "streaming", says)


def staleness(config: RunConfig) -> Diagnosis | None:
    """Whether anything bounds what stale samples do to the gradient."""
    most, train = config.algorithm.max_staleness, config.train
    if not most:
        return None
    steps = "1 step" if most == 1 else f"{most} steps"
    says = f"samples are up to {steps} old, the first batch of each chunk is never"
    if config.pipeline.correction == "none" and train.loss == "importance_sampling":
        advice = (
            "--train.loss cispo or ppo bounds the ratio, as does --pipeline.correction "
            "token_truncate for a forward more."
        )
        says += f", and {train.loss} does not bound what their ratio does to the gradient"
        return Diagnosis("note", "staleness", says, advice)
    if train.chunk_steps < 5 * most:
        advice = f"--train.chunk_steps {5 * most} or more lets it gain what it can."
        says += f": with a checkpoint every {train.chunk_steps} steps little is sampled ahead"
        return Diagnosis("note", "staleness", says, advice)
    return Diagnosis("ok", "staleness", says)


def rows(config: RunConfig, first: FirstRows) -> list[Diagnosis]:
    """Whether there is data, and enough of it to tell a difference."""
    looked = len(first.problems) + len(first.rejected)
    if not first.problems:
        reason = f"; the first: {first.rejected[0]}" if first.rejected else ""
        says = f"none of the first {looked} training rows can be used{reason}"
        return [Diagnosis("error", "dataset", says, "docs/datasets.md says what a row must hold.")]
    epochs = config.train.steps * config.train.batch_size / first.training_rows
    says = f"{first.training_rows:,} training rows, {epochs:.1f} passes over them"
    if epochs <= MOST_EPOCHS:
        found = [Diagnosis("ok", "dataset", says)]
    else:
        advice = "Many passes over few problems learn them by heart."
        found = [Diagnosis("note", "dataset", says, advice)]
    if first.rejected:
        says = f"{len(first.rejected)} of the first {looked} rows; {first.rejected[0]}"
        advice = "python flows/prepare_flow.py lists all of them in rejected.parquet."
        found.append(Diagnosis("warning", "rejected rows", says, advice))
    evaluated = config.evaluation.count(first.test_rows)
    if 0 < evaluated < FEW_TEST_PROBLEMS:
        says = f"{evaluated}: only a large difference will show (the report says how large)"
        found.append(Diagnosis("note", "test problems", says))
    if config.validation.every and not first.validation_rows:
        says = "the dataset has no validation split, so the run is not validated while it trains"
        advice = "Name one with --data.splits.validation, or say --validation.every 0."
        found.append(Diagnosis("note", "validation", says, advice))
    return found


def context(config: RunConfig, prompts: PromptSizes, limit: int | None) -> Diagnosis:
    """Whether the longest prompt and answer fit into the model's context."""
    longest = prompts.longest + config.sampling.max_new_tokens
    says = (
        f"prompts of {prompts.mean:.0f} tokens (longest {prompts.longest}), of which images "
        f"{prompts.image_mean:.0f} (longest {prompts.image_longest})"
    )
    if limit is None:
        return Diagnosis("note", "context", f"{says}; the server does not say what fits")
    says += f"; with the answer up to {longest} of {limit}"
    if longest > limit:
        advice = "Lower --model.max_pixels or --sampling.max_new_tokens."
        # Rows that do not fit are left out, and named where all are looked at.
        usual = prompts.mean + config.sampling.max_new_tokens
        return Diagnosis("error" if usual > limit else "warning", "context", says, advice)
    return Diagnosis("ok", "context", says)


def rows_that_fit(config: RunConfig, found: Mapping[Split, SplitFit]) -> list[Diagnosis]:
    """Whether every row can be asked about at the run's settings, as it will be when it starts."""
    made: list[Diagnosis] = []
    for split, fit in found.items():
        unfit = asked_and_unfit(config, split, fit)
        if not unfit:
            continue
        says = f"{len(unfit)} of {fit.rows} rows of {split} cannot be asked about: {named(unfit)}"
        fails = too_many(config, split, fit)
        does = "The run will be refused" if fails else "They are left out of training"
        if split != "train" and not fails:
            does = "They count as failed in its evaluation"
        severity: Severity = "error" if fails else "warning"
        made.append(Diagnosis(severity, "rows", says, f"{does}; {ADVICE}."))
    rows = sum(fit.rows for fit in found.values())
    return made or [Diagnosis("ok", "rows", f"all {rows:,} fit the model at these settings")]


def contrast(config: RunConfig, evidence: Evidence) -> Diagnosis:
    """The share of groups from which nothing will be learnt, at the measured pass rate."""
    size = config.train.group_size
    share = share_without_contrast(evidence.counts, size)
    if share is None:
        return Diagnosis("note", "contrast", "not known: nothing was sampled twice yet")
    right, samples = (sum(column) for column in zip(*evidence.counts, strict=True))
    says = (
        f"{percent(right / samples)} of samples right ({evidence.where}); "
        f"about {percent(share)} of groups of {size} all right or all wrong"
    )
    if share <= MOST_WITHOUT_CONTRAST:
        return Diagnosis("ok", "contrast", says)
    larger = smallest_group(
        evidence.counts, MOST_WITHOUT_CONTRAST, [n for n in GROUP_SIZES if n > size]
    )
    advice = (
        f"--train.group_size {larger} would have less than half of them so."
        if larger
        else "Take harder problems where most are right, easier ones where most are wrong."
    )
    return Diagnosis("error" if share > 0.98 else "warning", "contrast", says, advice)


def truncation(config: RunConfig, evidence: Evidence | None, *, thinks: bool) -> Diagnosis | None:
    """Whether answers are cut off; before any was measured, whether the model `thinks` and has
    little room for it."""
    most = config.sampling.max_new_tokens
    share = evidence.truncated_share if evidence else None
    advice = "Raise --sampling.max_new_tokens"
    if thinks:
        advice += f", to {THINKING_TOKENS} and more, or ask without a thought: --model.thinking off"
    if evidence is None or share is None:
        says = cut_thoughts(config, thinks=thinks)
        return Diagnosis("warning", "truncation", says, f"{advice}.") if says else None
    says = f"{percent(share)} of answers reach {most} tokens ({evidence.where})"
    if share <= MOST_TRUNCATED:
        return Diagnosis("ok", "truncation", says)
    return Diagnosis("warning", "truncation", says, f"{advice}.")


def checkpoint_lifetime(config: RunConfig, work: Workload) -> Diagnosis:
    """Whether a checkpoint outlives the time until the next, and a pause of the user."""
    lifetime = backend_lifetime(config, choose_kind(config, os.environ))
    if lifetime is None:
        return Diagnosis("ok", "checkpoints", "they stay until they are deleted")
    says = f"checkpoints live {duration(lifetime)}"
    if work.step_seconds is None:
        return Diagnosis("note", "checkpoints", f"{says}; how long a chunk takes is not known")
    chunk = config.train.chunk_steps * work.step_seconds
    says += f", one is made every {duration(chunk)}"
    if lifetime < 2 * chunk:
        severity = "error" if lifetime < chunk else "warning"
        advice = "Raise --backend.checkpoint_ttl_seconds, or lower --train.chunk_steps."
        return Diagnosis(severity, "checkpoints", says, advice)
    return Diagnosis("ok", "checkpoints", says)


def chunk_length(config: RunConfig, work: Workload, evidence: Evidence | None) -> Diagnosis | None:
    """What a kill loses; None where no step was measured."""
    if work.step_seconds is None:
        return None
    steps = min(config.train.chunk_steps, config.train.steps)
    saving = evidence.checkpoint_seconds if evidence else None
    says, advice = chunk_in_words(steps, work.step_seconds, saving)
    return Diagnosis("note" if advice else "ok", "chunks", says, advice)


def budgets(config: RunConfig, work: Workload) -> list[Diagnosis]:
    """Whether the run will come to its end, or to that of a budget."""
    found: list[Diagnosis] = []
    for budget in budgets_of(config):
        limit, needs = budget.limit, budget.amount(work.tokens)
        most = "at most" if work.at_most else "about"
        says = f"{shown(budget.setting, limit)}; the run takes {most} "
        says += shown(budget.setting, needs)
        ends = needs > limit
        advice = "It ends at a checkpoint before that, with its report." if ends else ""
        found.append(Diagnosis("note" if ends else "ok", budget.setting, says, advice))
    return found


def disk(config: RunConfig) -> Diagnosis:
    """Whether there is room where runs and, on this machine, checkpoints go."""
    folder = _there(config.output_dir.absolute())
    free = shutil.disk_usage(folder).free
    says = f"{size_text(free)} free at {config.output_dir.absolute()}"
    if not os.access(folder, os.W_OK):
        return Diagnosis("error", "disk", f"{folder} cannot be written", "Choose --output-dir.")
    if free < ROOM_BYTES:
        return Diagnosis("warning", "disk", says, "A run may need a gigabyte: free some.")
    return Diagnosis("ok", "disk", says)


def checkpoint_room(config: RunConfig, room: Room) -> Diagnosis | None:
    """What the run's checkpoints will take against the engine's limit and the disk."""
    if room.needed is None:
        if room.limit is None:
            return None
        says = f"{size_text(room.used)} of {size_text(room.limit)} in use at {room.home}"
        full = room.used >= room.limit
        more = "; what the run adds is not known before its model is on this machine"
        advice = f"Set {MAX_DISK_VARIABLE} to more." if full else ""
        return Diagnosis("error" if full else "note", "engine's disk", says + more, advice)
    says = f"{size_text(room.used)} in use at {room.home}; checkpoints add {size_text(room.needed)}"
    fewer = "" if config.backend.keep_checkpoints else " or keep few: --backend.keep_checkpoints 2."
    total = room.used + room.needed
    if room.limit is not None:
        says += f"; {MAX_DISK_VARIABLE} allows {size_text(room.limit)}"
        if total > room.limit:
            advice = f"Set {MAX_DISK_VARIABLE} to more than {size_text(total)}{fewer or '.'}"
            return Diagnosis("error", "engine's disk", says, advice)
    free = shutil.disk_usage(_there(room.home)).free
    if room.needed > free:
        advice = f"Free some space{fewer or '.'}"
        says += f"; {size_text(free)} are free"
        return Diagnosis("error", "engine's disk", says, advice)
    return Diagnosis("ok", "engine's disk", says)


def _there(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def threads(config: RunConfig, cores: int) -> Diagnosis:
    """The embedded engine's threads against the machine's cores."""
    wanted = config.backend.threads
    says = f"{wanted} for the engine on {cores} cores"
    if wanted > cores:
        return Diagnosis("warning", "threads", says, f"--backend.threads {cores} is faster.")
    return Diagnosis("ok", "threads", says)
