"""What a sweep found: every setting against its baseline, and against the chosen one.

The chosen setting is the best by validation, so that its test result is that of one setting named
beforehand. Without validation none is chosen: the highest of several test results is high in part
by luck, and is only named.

Gains over the baseline are one family of comparisons, differences to the chosen (or, without one,
the highest) setting another; in each, p-values are Holm's. All of it is worked out from the runs'
own files, so it is the same however often the sweep was killed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from visual_r1.config import RunConfig
from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import evaluation_folder, read_report
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.evaluation.seeds import Right, gains
from visual_r1.evaluation.statistics import Gain, distinguishable, holm
from visual_r1.report.summary import BASELINE, FINAL, read_summary
from visual_r1.runs.costs import cost_of_run
from visual_r1.sweeps.members import is_trained, steps_done, validation_at
from visual_r1.sweeps.plan import Plan, Setting
from visual_r1.wording import p_value_in_words, percent, points, points_range


@dataclass(frozen=True, slots=True)
class MemberResult:
    """One run: how far it came, and what it scored. Accuracies are shares, None where not known.

    `planned` is how many steps it was to make where its budget ended it before, else None.
    """

    run: str
    seed: int
    steps: int
    trouble: str = ""
    baseline: float | None = None
    final: float | None = None
    blind: float | None = None
    validation: float | None = None
    cost_usd: float | None = None
    planned: int | None = None


@dataclass(frozen=True, slots=True)
class SettingResult:
    """A setting over its seeds.

    `gain` is over the baseline, None where no run of it is whole; `to_chosen` is this setting less
    the chosen one. The adjusted p-values are Holm's. `stopped_at` is the rung after which halving
    let go of it.
    """

    label: str
    changes: Mapping[str, Any]
    members: tuple[MemberResult, ...]
    baseline: float | None = None
    final: float | None = None
    blind: float | None = None
    validation: float | None = None
    gain: Gain | None = None
    gain_p_holm: float | None = None
    to_chosen: Gain | None = None
    to_chosen_p_holm: float | None = None
    stopped_at: int | None = None

    @property
    def whole(self) -> bool:
        """Whether each of its runs is."""
        return all(member.final is not None for member in self.members)

    @property
    def ended_by_budget(self) -> str:
        """At how many of how many steps runs of it were ended by their budget; "" where none was.

        As "4 of 8 steps", or "4 to 6 of 8 steps" where its runs ended at several.
        """
        ended = [one for one in self.members if one.planned is not None]
        if not ended:
            return ""
        steps, planned = {one.steps for one in ended}, {one.planned for one in ended}
        ends = f"{min(steps)}" + (f" to {max(steps)}" if len(steps) > 1 else "")
        return f"{ends} of {', '.join(map(str, sorted(filter(None, planned))))} steps"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sweep's result, as `summary.json` holds it.

    `chosen` is a label, by what stands in `chosen_by`: validation, or test, which is a selection
    by what is reported and said to be one.
    """

    sweep: str
    conclusion: str
    chosen: str | None
    chosen_by: str | None
    problems: int
    settings: tuple[SettingResult, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Answers:
    """The greedy verdicts of one run, before and after, by problem."""

    seed: int
    before: Mapping[str, bool] = field(repr=False)
    after: Mapping[str, bool] = field(repr=False)


def compare_settings(
    plan: Plan, troubles: Mapping[str, str], stopped: Mapping[str, int] | None = None
) -> Comparison:
    """Compare the settings of `plan` by what their runs have left.

    `troubles` says by run why one is not whole, `stopped` by label where halving let go of one.
    """
    stopped = stopped or {}
    answers = {
        setting.label: [] if setting.label in stopped else _answers(setting)
        for setting in plan.settings
    }
    results = [
        _result(setting, answers[setting.label], troubles, stopped.get(setting.label))
        for setting in plan.settings
    ]
    compared = [one for one in results if answers[one.label]]
    sides = [_over_baseline(answers[one.label]) for one in compared]
    found = gains([before for before, _ in sides], [after for _, after in sides])
    adjusted = holm([gain.p_value for gain in found])
    gained = {
        one.label: replace(one, gain=gain, gain_p_holm=p)
        for one, gain, p in zip(compared, found, adjusted, strict=True)
    }
    chosen, by = _choose(list(gained.values()))
    if chosen is not None:
        gained = _against(chosen, gained, answers)
    settings = tuple(gained.get(one.label, one) for one in results)
    problems = max((gain.n for gain in found), default=0)
    result = Comparison(
        plan.sweep.name, "", chosen.label if chosen else None, by, problems, settings
    )
    return replace(result, conclusion=_conclusion(result), notes=tuple(_notes(plan, result)))


def _result(
    setting: Setting,
    answers: Sequence[_Answers],
    troubles: Mapping[str, str],
    stopped_at: int | None,
) -> SettingResult:
    members = tuple(
        _member(member.config, member.seed, troubles.get(member.run, ""), stopped_at)
        for member in setting.members
    )
    whole = [one for one in members if one.final is not None] if answers else []
    validated = [one.validation for one in members if one.validation is not None]
    return SettingResult(
        label=setting.label,
        changes=dict(setting.changes),
        members=members,
        baseline=_mean([one.baseline for one in whole]),
        final=_mean([one.final for one in whole]),
        blind=_mean([one.blind for one in whole]),
        validation=fmean(validated) if len(validated) == len(members) else None,
        stopped_at=stopped_at,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _member(config: RunConfig, seed: int, trouble: str, stopped_at: int | None) -> MemberResult:
    steps = steps_done(config)
    is_whole = stopped_at is None and is_trained(config)
    summary = read_summary(config.run_dir) if is_whole else None
    # A run that its budget ended has its last checkpoint before train.steps.
    last = summary.steps if summary else config.train.steps if stopped_at is None else stopped_at
    cost = cost_of_run(config.run_dir)
    base = MemberResult(
        config.run_name,
        seed,
        summary.steps if summary else steps,
        validation=validation_at(config, last),
        cost_usd=round(cost.usd, 6) if cost else None,
        planned=config.train.steps if summary and summary.steps < config.train.steps else None,
    )
    if stopped_at is not None:
        return base
    if not is_whole:
        return replace(base, trouble=trouble or "It is not whole.")
    before, after = (
        read_report(evaluation_folder(config.run_dir, name)) for name in (BASELINE, FINAL)
    )
    return replace(base, baseline=before.accuracy, final=after.accuracy, blind=after.blind_accuracy)


def _answers(setting: Setting) -> list[_Answers]:
    """Of its runs that are whole, by the order of their seeds."""
    found: list[_Answers] = []
    for member in setting.members:
        if not is_trained(member.config):
            continue
        before, after = (
            {
                str(row["id"]): bool(row["correct"])
                for row in read_predictions(
                    evaluation_folder(member.config.run_dir, name), ["id", "correct"]
                )
                if row["correct"] is not None
            }
            for name in (BASELINE, FINAL)
        )
        found.append(_Answers(member.seed, before, after))
    return found


def _over_baseline(runs: Sequence[_Answers]) -> tuple[Right, Right]:
    """Verdicts [seed][problem] before and after, of the problems that all of them answered."""
    shared = [
        problem
        for problem in runs[0].before
        if all(problem in run.before and problem in run.after for run in runs)
    ]
    if not shared:
        raise DataError(
            "The runs of a setting share no test problem, so there is nothing to compare: were "
            "they evaluated on different datasets?"
        )
    return (
        [[run.before[problem] for problem in shared] for run in runs],
        [[run.after[problem] for problem in shared] for run in runs],
    )


def _choose(compared: Sequence[SettingResult]) -> tuple[SettingResult | None, str | None]:
    """The best by validation where all were validated, else the highest on the test problems."""
    whole = [one for one in compared if one.whole] or list(compared)
    if not whole:
        return None, None
    if all(one.validation is not None for one in whole):
        return max(whole, key=lambda one: one.validation or 0.0), "validation"
    return max(whole, key=lambda one: one.gain.value if one.gain else -1.0), "test"


def _against(
    chosen: SettingResult,
    compared: Mapping[str, SettingResult],
    answers: Mapping[str, Sequence[_Answers]],
) -> dict[str, SettingResult]:
    """The settings with their differences to the chosen one, seed by seed where they share any."""
    labels: list[str] = []
    befores: list[Right] = []
    afters: list[Right] = []
    reference = {run.seed: run.after for run in answers[chosen.label]}
    for label in compared:
        runs = [run for run in answers[label] if run.seed in reference]
        first: Mapping[str, bool] = runs[0].after if runs else {}
        problems = [
            problem
            for problem in first
            if all(problem in run.after and problem in reference[run.seed] for run in runs)
        ]
        if label != chosen.label and problems:
            labels.append(label)
            befores.append([[reference[run.seed][id] for id in problems] for run in runs])
            afters.append([[run.after[id] for id in problems] for run in runs])
    found = gains(befores, afters)
    adjusted = holm([gain.p_value for gain in found])
    differences = dict(zip(labels, zip(found, adjusted, strict=True), strict=True))
    return {
        label: replace(one, to_chosen=differences[label][0], to_chosen_p_holm=differences[label][1])
        if label in differences
        else one
        for label, one in compared.items()
    }


def _conclusion(found: Comparison) -> str:
    chosen = next((one for one in found.settings if one.label == found.chosen), None)
    if chosen is None or chosen.gain is None or chosen.gain_p_holm is None:
        return "No run of the sweep is whole yet, so there is nothing to compare."
    gain = chosen.gain
    evidence = (
        f"{points(gain.value)} points over the baseline on {gain.n} test problems (95% interval "
        f"{points_range(gain.ci95)}, {p_value_in_words(chosen.gain_p_holm)} after Holm)"
    )
    seen = "" if distinguishable(chosen.gain_p_holm) else "; that is no distinguishable gain"
    others = [one for one in found.settings if one.to_chosen_p_holm is not None]
    alike = [one for one in others if not distinguishable(one.to_chosen_p_holm or 0.0)]
    rest = ""
    if len(others) == 1:
        rest = f" The other setting {'cannot' if alike else 'can'} be told apart from it"
    elif others:
        rest = f" Of the {len(others)} other settings {len(alike)} cannot be told apart from it"
    rest += " on these problems." if others else ""
    if found.chosen_by == "validation":
        return (
            f"Chosen by validation ({percent(chosen.validation or 0.0)}): {chosen.label}, with "
            f"{evidence}{seen}.{rest}"
        )
    return (
        f"Highest on the test problems: {chosen.label}, with {evidence}{seen}.{rest} "
        f"{_why_not_by_validation(found)}, so this one was picked by the same problems that it is "
        "reported on, and the highest of several is high in part by luck: use --validation.every "
        "to choose by validation, or confirm it on problems that no run of this sweep was measured "
        "on."
    )


def _why_not_by_validation(found: Comparison) -> str:
    """Why the setting was not chosen by validation, as the beginning of a sentence."""
    compared = [one for one in found.settings if one.gain is not None]
    tried = [one for one in compared if one.whole] or compared
    members = [(one, run) for one in tried for run in one.members if run.final is not None]
    missing = [(one, run) for one, run in members if run.validation is None]
    if not missing:
        return "No setting has all its runs whole"
    if len(missing) == len(members):
        return "Nothing was validated"
    one, run = missing[0]
    many = len(missing) > 1
    end = f"step {run.steps}"
    if run.planned is not None:
        end += f" of {run.planned}, where its budget ended it"
    return (
        f"{len(missing)} of {len(members)} runs {'were' if many else 'was'} not validated at "
        f"{'their' if many else 'its'} end ({'the first ' if many else ''}{one.label} "
        f"seed={run.seed} at {end})"
    )


def _graders(plan: Plan) -> list[str]:
    """The versions of the grader behind the runs that are compared."""
    return sorted(
        {
            read_report(evaluation_folder(member.config.run_dir, name)).conditions.grader_version
            for member in plan.members
            if is_trained(member.config)
            for name in (BASELINE, FINAL)
        }
    )


def _notes(plan: Plan, found: Comparison) -> list[str]:
    notes: list[str] = []
    single = [one for one in found.settings if one.gain is not None and one.gain.seeds == 1]
    if single:
        notes.append(
            "Settings with one seed are one run each: their intervals speak of that run, and "
            "another seed of the same setting may land outside. Give seeds to compare settings."
        )
    if len(graders := _graders(plan)) > 1:
        notes.append(
            f"The answers were graded by versions {' and '.join(graders)} of the grader, so a part "
            "of a difference may be the graders'. To have one grader, remove the folder "
            "evaluations/ of the runs that are older and start the sweep again."
        )
    ended = [
        f"{setting.label} seed={run.seed} at {run.steps} of {run.planned} steps"
        for setting in found.settings
        for run in setting.members
        if run.planned is not None
    ]
    if ended:
        notes.append(
            f"Ended by its budget: {'; '.join(ended)}. Such a run is compared by its last "
            "checkpoint with runs that trained longer; with a higher budget the same command goes "
            "on with it."
        )
    troubled = [one for setting in found.settings for one in setting.members if one.trouble]
    if troubled:
        notes.append(
            f"{len(troubled)} of {len(plan.members)} runs are not in the comparison; the same "
            "command tries them again."
        )
    return notes
