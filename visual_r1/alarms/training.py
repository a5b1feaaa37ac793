"""The alarms that look at the steps: rows of metrics.jsonl.

Each is a function of what was seen up to a step; it returns the figures in a sentence, or None. A
rise counts where chance alone would show it less than once in ten thousand times (`ALPHA`), because
it is looked for at every step and against several earlier windows, and where it is large enough to
matter. Accuracy counts as rising from one chance in fifty on (`RISING`): where learning can be seen
at all, the benefit of the doubt is the run's. It counts as flat only where a rise half as large as
the format's would show less than once in a thousand times what was seen (`FLAT`): few steps that
happen to be poor are no flat accuracy.
"""

from collections.abc import Iterator

import numpy as np

from visual_r1.alarms.windows import Change, Curves, changes, newest
from visual_r1.config import CUSTOM, RewardSection, RunConfig

ALPHA = 1e-4
RISING = 0.02
FLAT = 1e-3

LEAST_RISE = 0.1  # of a share; a component of the user's own must pay as much as that
SATURATED = 0.9  # accuracy from which on there is no room to rise
LONGER = 1.5  # times as many tokens
LEAST_SCANS_RISE = 0.05
COLLAPSED, DISSOLVED = 0.2, 3.0  # times the entropy that there was
MISTAKES_LEFT = 0.75  # of those that were made: entropy that falls with them is learning
LEAST_FALL = 0.15
RATIO_OFF, RATIO_CHANGED = 0.1, 0.15  # of the draw ratio, away from 1 and from what it was
KL_STEPS = 5
HELD_OUT_CHECKPOINTS, HELD_OUT_RISE = 2, 1.05
KL_TIMES = 10.0
KL_OF_ENTROPY = 0.01


def format_pays(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Format, or another habit that is paid for, rises while accuracy does not."""
    for column, words, least in _habits(config.reward):
        for change in changes(curves, column, step, config.alarms.window):
            accuracy = change.of(curves, "accuracy") if change.rise >= least else None
            if accuracy is None or accuracy.before.mean >= SATURATED or _rises(accuracy):
                continue
            as_learnt = LEAST_RISE * change.rise / least / 2
            if accuracy.p_fall(as_learnt) < FLAT and change.p_rise() < ALPHA:
                return (
                    f"{words} rose from {_value(change.before.mean)} ({change.before.where}) to "
                    f"{_value(change.now.mean)} ({change.now.where}); accuracy went from "
                    f"{accuracy.before.mean:.1%} to {accuracy.now.mean:.1%}."
                )
    return None


def length_runs_away(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Responses half as long again without more of them being right, or cut off more often."""
    for change in changes(curves, "response_tokens_mean", step, config.alarms.window):
        if change.now.mean < LONGER * change.before.mean or change.p_rise() >= ALPHA:
            continue
        accuracy = change.of(curves, "accuracy")
        if accuracy is not None and not _rises(accuracy):
            return (
                f"responses grew from {change.before.mean:.0f} tokens ({change.before.where}) to "
                f"{change.now.mean:.0f} ({change.now.where}); accuracy went from "
                f"{accuracy.before.mean:.1%} to {accuracy.now.mean:.1%}."
            )
    for change in changes(curves, "truncated_share", step, config.alarms.window):
        if change.rise >= LEAST_RISE and change.p_rise() < ALPHA:
            return (
                f"the share of responses that ran out of tokens rose from "
                f"{change.before.mean:.1%} ({change.before.where}) to {change.now.mean:.1%} "
                f"({change.now.where})."
            )
    return None


def scans_carry_answers(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Scans that hold the answer, or leak it past the mask: too many, or more and more."""
    for name, words in (("scans_with_answer", "scans that hold an answer"), ("leaks", "leaks")):
        for change in changes(curves, name, step, config.alarms.window):
            if change.rise >= LEAST_SCANS_RISE and change.p_rise() < ALPHA:
                return (
                    f"the share of {words} rose from {change.before.mean:.1%} "
                    f"({change.before.where}) to {change.now.mean:.1%} ({change.now.where})."
                )
    return None


def scans_held_answers(curves: Curves, step: int, config: RunConfig) -> str | None:
    """From the start, more scans with an answer than `alarms.max_scan_answers`."""
    now = newest(curves, "scans_with_answer", step, config.alarms.window)
    limit = config.alarms.max_scan_answers
    if now is None or now.mean - 3 * now.error <= limit:
        return None
    return f"{now.mean:.1%} of the scans held an answer ({now.where}), over {limit:.1%}."


def learnt_without_image(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Answers without image and scan get better, at least half as much as those with them."""
    for change in changes(curves, "question_only_accuracy", step, config.alarms.window):
        accuracy = change.of(curves, "accuracy")
        if accuracy is None or change.rise < max(LEAST_SCANS_RISE, accuracy.rise / 2):
            continue
        if change.p_rise() < ALPHA:
            return (
                f"accuracy without image and scan rose from {change.before.mean:.1%} "
                f"({change.before.where}) to {change.now.mean:.1%} ({change.now.where}), with the "
                f"image it went from {accuracy.before.mean:.1%} to {accuracy.now.mean:.1%}."
            )
    return None


def entropy_collapses(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Entropy falls to a fraction while the mistakes stay, or rises to a multiple for nothing."""
    for change in changes(curves, "entropy", step, config.alarms.window):
        times = change.now.mean / change.before.mean if change.before.mean > 0 else 1.0
        accuracy = change.of(curves, "accuracy")
        if COLLAPSED < times < DISSOLVED or accuracy is None:
            continue
        mistakes = (1 - accuracy.now.mean) / max(1 - accuracy.before.mean, 1e-9)
        collapsed = times <= COLLAPSED and mistakes >= MISTAKES_LEFT and change.p_fall() < ALPHA
        dissolved = times >= DISSOLVED and not _rises(accuracy) and change.p_rise() < ALPHA
        if collapsed or dissolved:
            return (
                f"entropy {'fell' if collapsed else 'rose'} from {change.before.mean:.3g} nats a "
                f"token ({change.before.where}) to {change.now.mean:.3g} ({change.now.where}); "
                f"accuracy went from {accuracy.before.mean:.1%} to {accuracy.now.mean:.1%}."
            )
    return None


def contrast_is_gone(curves: Curves, step: int, config: RunConfig) -> str | None:
    """No sample gave a gradient for a whole window, and not because all are right."""
    now = newest(curves, "gradient_share", step, config.alarms.window)
    accuracy = newest(curves, "accuracy", step, config.alarms.window)
    if now is None or accuracy is None or now.mean > 0 or accuracy.mean >= SATURATED:
        return None
    return (
        f"no group of samples had any contrast to learn from ({now.where}), at an accuracy of "
        f"{accuracy.mean:.1%}."
    )


def accuracy_falls(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Accuracy in training is lower than it was."""
    for change in changes(curves, "accuracy", step, config.alarms.window):
        if -change.rise >= LEAST_FALL and change.p_fall() < ALPHA:
            return (
                f"accuracy in training fell from {change.before.mean:.1%} ({change.before.where}) "
                f"to {change.now.mean:.1%} ({change.now.where})."
            )
    return None


def held_out_loss_rises(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Of a supervised run: the held-out loss is above its lowest at two checkpoints in a row.

    What it was before the run's first step counts as well.
    """
    del config  # it is of no setting
    steps, losses = curves.up_to("held_out_loss", step)
    began, before = curves.up_to("held_out_loss_before", step)
    where = [*(f"before step {one}" for one in began), *(f"step {one}" for one in steps)]
    losses = np.concatenate([before, losses])
    if len(losses) < HELD_OUT_CHECKPOINTS + 1:
        return None
    best = int(np.argmin(losses))
    later = losses[-HELD_OUT_CHECKPOINTS:]
    if best >= len(losses) - HELD_OUT_CHECKPOINTS or min(later) < HELD_OUT_RISE * losses[best]:
        return None
    return (
        f"the loss of held-out responses rose from {losses[best]:.3g} nats a token ("
        f"{where[best]}) to {losses[-1]:.3g} ({where[-1]})."
    )


def learner_disagrees(curves: Curves, step: int, config: RunConfig) -> str | None:
    """The KL between sampler and learner is over `alarms.max_kl` in most of the last steps.

    Of stale steps the weights have moved meanwhile: there it says nothing of the server.
    """
    steps, kls = curves.on_policy.up_to("kl_sampler_learner", step)
    count = min(KL_STEPS, config.alarms.window)
    if len(kls) < count:
        return None
    median = float(np.median(kls[-count:]))
    limit = _kl_limit(curves, step, config)
    if median <= limit:
        return None
    return (
        f"sampler and learner differ by {median:.2g} nats a token (the median of steps "
        f"{steps[-count]} to {steps[-1]}), over {limit:.2g}; the same weights should differ by "
        "rounding alone."
    )


def learner_drifts_away(curves: Curves, step: int, config: RunConfig) -> str | None:
    """That KL is over the limit and ten times what it was, after it was taken note of once."""
    for change in changes(curves.on_policy, "kl_sampler_learner", step, config.alarms.window):
        limit = _kl_limit(curves, step, config)
        far = change.now.mean > max(limit, KL_TIMES * change.before.mean)
        if far and change.p_rise() < ALPHA:
            return (
                f"the KL between sampler and learner rose from {change.before.mean:.2g} nats a "
                f"token ({change.before.where}) to {change.now.mean:.2g} ({change.now.where})."
            )
    return None


def _kl_limit(curves: Curves, step: int, config: RunConfig) -> float:
    """`alarms.max_kl`, or less where the policy is sure of itself: KL cannot be large there."""
    _, entropies = curves.up_to("entropy", step)
    if len(entropies) == 0:
        return config.alarms.max_kl
    typical = float(np.median(entropies[-config.alarms.window :]))
    return min(config.alarms.max_kl, KL_OF_ENTROPY * typical)


def draw_ratio_is_off(curves: Curves, step: int, config: RunConfig) -> str | None:
    """Samples of a group part more often, or less, than their own probabilities say.

    Of few samples a step the ratio is so noisy that one window never tells: two are looked at then,
    four and so on.
    """
    width = config.alarms.window
    while (now := newest(curves, "draw_ratio", step, width)) is not None:
        if abs(now.mean - 1) >= RATIO_OFF and now.p_other_than(1) < ALPHA:
            return (
                f"samples of a group part {now.mean:.2f} times as often as their log-probabilities "
                f"say ({now.where}): they are drawn {'colder' if now.mean < 1 else 'hotter'} than "
                "asked for."
            )
        width *= 2
    return None


def draw_ratio_changes(curves: Curves, step: int, config: RunConfig) -> str | None:
    """That ratio is another one than it was."""
    for change in changes(curves, "draw_ratio", step, config.alarms.window):
        if abs(change.rise) >= RATIO_CHANGED and min(change.p_rise(), change.p_fall()) < ALPHA:
            return (
                f"samples of a group parted {change.before.mean:.2f} times as often as their "
                f"log-probabilities say ({change.before.where}), and now {change.now.mean:.2f} "
                f"times ({change.now.where})."
            )
    return None


def _habits(reward: RewardSection) -> Iterator[tuple[str, str, float]]:
    """What can be learnt in place of answers: its column, its name, and the rise that matters."""
    yield "format_rate", "format", LEAST_RISE  # whatever it pays
    table = reward.table()
    for name, weight in reward.weights.items():
        if weight <= 0:
            continue
        if name == CUSTOM and reward.custom is not None:
            pays_as_much = LEAST_RISE * (reward.accuracy or 1.0) / weight
            yield f"reward_{CUSTOM}", reward.custom, pays_as_much
        elif name in table and table[name].habit:
            yield f"reward_{name}", name.replace("_", " "), LEAST_RISE


def _rises(change: Change) -> bool:
    return change.p_rise() < RISING


def _value(mean: float) -> str:
    return f"{mean:.1%}" if 0 <= mean <= 1 else f"{mean:.3g}"
