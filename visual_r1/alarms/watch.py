"""Looking for trouble at a checkpoint: from the rows of a run to its new findings.

A pure function of the files, so that a run that was killed and started again finds what the
uninterrupted one finds, at the same steps. Nothing here touches the training: with all alarms off,
on, or tripped, the weights are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from visual_r1.alarms.finding import ALARMS, AlarmName, Finding
from visual_r1.alarms.training import (
    accuracy_falls,
    contrast_is_gone,
    draw_ratio_changes,
    draw_ratio_is_off,
    entropy_collapses,
    format_pays,
    held_out_loss_rises,
    learner_disagrees,
    learner_drifts_away,
    learnt_without_image,
    length_runs_away,
    scans_carry_answers,
    scans_held_answers,
)
from visual_r1.alarms.validating import blind_gap_closes, validation_falls
from visual_r1.alarms.windows import Curves, StepRow
from visual_r1.config import RunConfig

StepRule = Callable[[Curves, int, RunConfig], str | None]
ValidationRule = Callable[[Sequence[StepRow], int], str | None]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What trips an alarm, and what is then said.

    `steps` look at the rows up to each step. `levels` do so too, each until it was told once: a
    level that its user has taken note of is no news. `validations` look at the validations up to
    each checkpoint.
    """

    means: str
    advice: str
    steps: tuple[StepRule, ...] = ()
    levels: tuple[StepRule, ...] = ()
    validations: tuple[ValidationRule, ...] = ()


CATALOGUE: dict[AlarmName, Alarm] = {
    "format": Alarm(
        "Usually the reward is being earned by the form of the answers and not by their content.",
        "Read some rollouts; lower that weight against reward.accuracy.",
        steps=(format_pays,),
    ),
    "length": Alarm(
        "Usually length is paid for by accident: sums over tokens, a component that grows with "
        "them, or nothing that ends a response.",
        "Read the longest rollouts; set reward.length, reward.repetition or another "
        "algorithm.normalization.",
        steps=(length_runs_away,),
    ),
    "scans": Alarm(
        "Usually the policy has learnt to pass the answer on, where it should describe the figure.",
        "Read some scans (scan_read in the rollouts); what masking misses is a case for an issue.",
        steps=(scans_carry_answers,),
        levels=(scans_held_answers,),
    ),
    "blind_gap": Alarm(
        "Usually the problems' texts give their answers away, and that is what is being learnt.",
        "Look at the problems that are right without their image; take them out, or set "
        "second_pass.minus_question_only.",
        steps=(learnt_without_image,),
        validations=(blind_gap_closes,),
    ),
    "entropy": Alarm(
        "Usually the policy gives the same few answers to everything (entropy down) or falls apart "
        "(entropy up), after updates that were too large or a reward that a single answer earns.",
        "Go back with --train.resume_from_step, under another --run.name lower "
        "train.learning_rate, or set algorithm.kl_coefficient, or algorithm.clip_higher with "
        "train.loss ppo.",
        steps=(entropy_collapses, contrast_is_gone),
    ),
    "validation": Alarm(
        "Usually the run trains too fast or for too long, or is paid for something else.",
        "Use the best checkpoint so far, or lower train.learning_rate under another --run.name.",
        steps=(accuracy_falls, held_out_loss_rises),
        validations=(validation_falls,),
    ),
    "mismatch": Alarm(
        "Usually one side applies a temperature, a cut of the distribution or a precision that "
        "the other does not, or samples from stale weights.",
        "Check the server before training further: what is learnt is weighted wrongly.",
        steps=(learner_drifts_away, draw_ratio_changes),
        levels=(learner_disagrees, draw_ratio_is_off),
    ),
}


def look(
    config: RunConfig,
    metrics: Sequence[StepRow] | Curves,
    validations: Sequence[StepRow],
    known: Sequence[Finding],
    *,
    first: int,
    checkpoint: int,
) -> list[Finding]:
    """The new findings of the chunk of steps `first` to `checkpoint` - 1, at most one an alarm.

    `metrics` and `validations` are rows of the run's files, or the curves of such rows, `known`
    what was found before. An alarm that has tripped looks at what came after that checkpoint alone.
    """
    seen_so_far = metrics if isinstance(metrics, Curves) else Curves(metrics)
    found: list[Finding] = []
    for name in ALARMS:
        action = getattr(config.alarms, name)
        if action == "off":
            continue
        alarm = CATALOGUE[name]
        told = [finding for finding in known if finding.alarm == name]
        begin = max((finding.checkpoint for finding in told), default=0)
        news = [rule for rule in alarm.levels if not _was_told(rule, seen_so_far, told, config)]
        curves = seen_so_far.between(begin, checkpoint)
        validated = [row for row in validations if begin <= row["step"] <= checkpoint]
        trips = _trips(alarm, (*alarm.steps, *news), curves, validated, max(first, begin), config)
        for step, seen in trips:
            found.append(Finding(name, step, checkpoint, action, seen, alarm.means, alarm.advice))
            break
    return found


def _trips(
    alarm: Alarm,
    rules: Sequence[StepRule],
    curves: Curves,
    validations: Sequence[StepRow],
    first: int,
    config: RunConfig,
) -> Iterator[tuple[int, str]]:
    """Where a rule holds, and what it says: steps from `first` on, then the validations after."""
    for step in curves.steps_from(first):
        for rule in rules:
            if (seen := rule(curves, step, config)) is not None:
                yield step, seen
    for row in validations:
        for rule in alarm.validations if row["step"] > first else ():
            if (seen := rule(validations, row["step"])) is not None:
                yield row["step"], seen


def _was_told(rule: StepRule, curves: Curves, told: Sequence[Finding], config: RunConfig) -> bool:
    """Whether one of these findings, in the order of their checkpoints, is what the rule says."""
    begin = 0
    for finding in told:
        if rule(curves.between(begin, finding.checkpoint), finding.step, config) == finding.seen:
            return True
        begin = finding.checkpoint
    return False
