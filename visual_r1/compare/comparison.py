"""Evaluations against one of them: by how much they differ, and whether that can be told apart.

For each other evaluation the accuracy as paired difference (Newcombe's interval, exact McNemar),
which problems were won and lost, and what else both have: avg@k, pass@k and maj@k as differences
over problems (`evaluation.clustered`), and the passes without the image. The p-values of the
accuracies, or of the seeds' gains, are adjusted by Holm where several are compared; those of groups
among themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, cast

from visual_r1.compare.pairing import Paired, Row, pair, read_rows
from visual_r1.compare.sides import Seeds, Side, named_twice
from visual_r1.errors import DataError
from visual_r1.evaluation.clustered import mean_difference
from visual_r1.evaluation.deciding import DECIDES, differing, is_unknown
from visual_r1.evaluation.samples import pass_at_k
from visual_r1.evaluation.seeds import gains
from visual_r1.evaluation.slices import in_order, known_in
from visual_r1.evaluation.statistics import (
    FEWEST_PROBLEMS,
    Comparison,
    Gain,
    Interval,
    Pairs,
    distinguishable,
    holm,
)
from visual_r1.grading import Rounding
from visual_r1.wording import p_value_in_words, percent, points_range

# Which weights answered is what is compared.
_COMPARED = {"sampler_path"}


@dataclass(frozen=True, slots=True)
class Measure:
    """Another measure than the accuracy: its value in the reference and here, as shares."""

    name: str
    reference: float
    value: float
    gain: Gain


@dataclass(frozen=True, slots=True)
class Group:
    """The accuracy on a group of problems; `p_holm` is adjusted for all groups."""

    name: str
    accuracy: Comparison
    p_holm: float


@dataclass(frozen=True, slots=True)
class Against:
    """One evaluation against the reference.

    `accuracy` has the reference's as `baseline` and this one's as `final`. `gained` and `lost` are
    ids; `left_out` counts by its reason what is in no pair. `differing` names the conditions that
    are not the same, or of which it is not known.
    """

    label: str
    folder: str
    headline: str
    evidence: str
    accuracy: Comparison
    p_holm: float
    measures: tuple[Measure, ...]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    left_out: Mapping[str, int]
    differing: tuple[str, ...]
    groups: tuple[Group, ...] = ()

    @property
    def interval(self) -> Interval:
        """Of the difference."""
        return self.accuracy.delta_ci95


@dataclass(frozen=True, slots=True)
class Compared:
    """All of them against the one with the label `reference`; `run` is that of all of them, empty
    where they are of several. `by_whom` says who says how hard a problem is, see `slices`."""

    reference: str
    folder: str
    run: str
    rounding: Rounding
    by: str
    by_whom: str
    against: tuple[Against, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SeedsAgainst:
    """A setting over its seeds against the reference setting; `accuracies` are those of the seeds,
    on the problems that all of them answered."""

    label: str
    evaluations: tuple[str, ...]
    accuracies: tuple[float, ...]
    reference: float
    accuracy: float
    gain: Gain
    p_holm: float
    headline: str
    evidence: str

    @property
    def interval(self) -> Interval:
        """Of the difference."""
        return self.gain.ci95


@dataclass(frozen=True, slots=True)
class SeedsCompared:
    """All settings against the one with the label `reference`."""

    reference: str
    accuracies: tuple[float, ...]
    rounding: Rounding
    against: tuple[SeedsAgainst, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return asdict(self)


def compare(
    sides: Sequence[Side], *, against: int = 0, rounding: Rounding | None = None, by: str = ""
) -> Compared:
    """Compare evaluations with that at the place `against`.

    `rounding` is that of the greedy verdicts, by default the evaluations' own, or exact where they
    have not the same. `by` is one of `slices.BY`, or empty. Raises `DataError` where two are of
    different data, or a file is damaged.
    """
    reference = sides[against]
    others = [side for place, side in enumerate(sides) if place != against]
    used, notes = _rounding(sides, rounding)
    notes += [
        f"{side.label} is named twice: it is the same evaluation, not another one that came to "
        "the same."
        for side in named_twice(sides)
    ]
    rows = read_rows(reference, used)
    groups, by_whom = _groups(reference, rows, by)
    found: list[Against] = []
    for side in others:
        paired = pair(rows, read_rows(side, used), (reference.label, side.label))
        found.append(_one(reference, side, paired, used, groups, by))
    adjusted = holm([one.accuracy.p_value for one in found])
    found = [
        _concluded(replace(one, p_holm=p), reference.label, len(found))
        for one, p in zip(found, adjusted, strict=True)
    ]
    runs = {side.run_dir for side in sides}
    of_one = reference.run_dir if len(runs) == 1 else None
    return Compared(
        reference=reference.label,
        folder=str(reference.folder),
        run=of_one.name if of_one else "",
        rounding=used,
        by=by,
        by_whom=by_whom,
        against=tuple(found),
        notes=tuple(notes),
    )


def compare_seeds(
    settings: Sequence[Seeds], *, against: int = 0, rounding: Rounding | None = None
) -> SeedsCompared:
    """Compare settings, each over its seeds, with that at the place `against`.

    All is counted on the problems that every evaluation answered. Raises as `compare`.
    """
    sides = [side for setting in settings for side in setting.sides]
    used, notes = _rounding(sides, rounding)
    rows = {side.label: read_rows(side, used) for side in sides}
    first = sides[0]
    shared = list(rows[first.label])
    for side in sides[1:]:
        paired = pair(rows[first.label], rows[side.label], (first.label, side.label))
        there = {one.id for one, _ in paired.pairs}
        shared = [id for id in shared if id in there]
    if not shared:
        raise DataError("No problem was answered in all of these evaluations.")
    right = {
        setting.label: [
            [bool(rows[side.label][id].right) for id in shared] for side in setting.sides
        ]
        for setting in settings
    }
    means = {label: [fmean(seed) for seed in table] for label, table in right.items()}
    reference = settings[against]
    others = [setting for place, setting in enumerate(settings) if place != against]
    found = gains([right[reference.label]] * len(others), [right[one.label] for one in others])
    adjusted = holm([gain.p_value for gain in found])
    if any(len(one.sides) == 1 for one in settings):
        single = ", ".join(one.label for one in settings if len(one.sides) == 1)
        notes.append(
            f"Of {single} there is one evaluation: how its seeds would scatter is not known, and "
            "the intervals speak of that one."
        )
    most = max(len(table) for table in rows.values())
    if len(shared) < most:
        notes.append(f"{most - len(shared)} of {most} problems are not in every evaluation.")
    results: list[SeedsAgainst] = []
    for setting, gain, p in zip(others, found, adjusted, strict=True):
        before, after = fmean(means[reference.label]), fmean(means[setting.label])
        is_seen = distinguishable(p)
        if gain.n < FEWEST_PROBLEMS:
            rest = f" {_so_many(gain.n)} too few to show any difference: evaluate on more."
        elif is_seen:
            rest = ""
        else:
            rest = " More seeds narrow it where seeds scatter, else more problems."
        results.append(
            SeedsAgainst(
                label=setting.label,
                evaluations=tuple(side.label for side in setting.sides),
                accuracies=tuple(means[setting.label]),
                reference=before,
                accuracy=after,
                gain=gain,
                p_holm=p,
                headline=_headline(
                    (reference.label, setting.label), before, after, gain.value if is_seen else None
                ),
                evidence=f"95% interval {points_range(gain.ci95)} points, {p_value_in_words(p)}"
                f"{' after Holm' if len(others) > 1 else ''}; {len(setting.sides)} against "
                f"{len(reference.sides)} evaluations of {gain.n} problems.{rest}",
            )
        )
    unlike = dict.fromkeys(one for side in sides[1:] for one in _differing(first, side))
    return SeedsCompared(
        reference.label,
        tuple(means[reference.label]),
        used,
        tuple(results),
        tuple(unlike),
        tuple(notes),
    )


def _so_many(n: int) -> str:
    return f"{n} problem is" if n == 1 else f"{n} problems are"


def _rounding(sides: Sequence[Side], wanted: Rounding | None) -> tuple[Rounding, list[str]]:
    """The rounding of the verdicts, and what is to be said of it."""
    own = {side.report.conditions.rounding for side in sides}
    used: Rounding = wanted or ("rounded" if own == {"rounded"} else "exact")
    if own == {used}:
        return used, []
    graded = "; ".join(f"{side.label}: {side.report.conditions.rounding}" for side in sides)
    return used, [
        f"Greedy answers are compared with rounding {used!r}. Not all runs graded so ({graded}); "
        "samples and passes without the image have those verdicts alone, and are left out."
    ]


def _groups(side: Side, rows: Mapping[str, Row], by: str) -> tuple[Mapping[str, str], str]:
    """The name of each problem's group; and who says so, where it is difficulty.

    Raises `DataError` where nobody says how hard a problem is.
    """
    if not by:
        return {}, ""
    if by == "family":
        return {id: row.family for id, row in rows.items()}, ""
    known = known_in(side.folder)
    if groups := known.groups(by):
        return groups, known.difficulty_from if by == "difficulty" else ""
    raise DataError(
        f"{side.folder} does not tell problems apart by {by}: --by takes family, kind or size, and "
        "difficulty where the dataset has one or the baseline was sampled."
    )


def _one(
    reference: Side,
    side: Side,
    paired: Paired,
    rounding: Rounding,
    groups: Mapping[str, str],
    by: str,
) -> Against:
    own = {one.report.conditions.rounding for one in (reference, side)}
    members: dict[str, list[tuple[Row, Row]]] = {}
    for row, other in paired.pairs:
        if row.id in groups:
            members.setdefault(groups[row.id], []).append((row, other))
    names = in_order(by, members)
    compared = [_accuracy(members[name]) for name in names]
    adjusted = holm([one.p_value for one in compared])
    return Against(
        label=side.label,
        folder=str(side.folder),
        headline="",
        evidence="",
        accuracy=_accuracy(paired.pairs),
        p_holm=1.0,
        measures=tuple(_measures(paired.pairs)) if own == {rounding} else (),
        gained=tuple(one.id for one, two in paired.pairs if two.right and not one.right),
        lost=tuple(one.id for one, two in paired.pairs if one.right and not two.right),
        left_out={
            reason: len(ids)
            for reason, ids in (
                (f"in {reference.label} alone", paired.only_first),
                (f"in {side.label} alone", paired.only_second),
                ("with another question, answer or picture", paired.other_content),
                ("whose request failed in one of the two", paired.unanswered),
            )
            if ids
        },
        differing=tuple(_differing(reference, side)),
        groups=tuple(map(Group, names, compared, adjusted)),
    )


def _accuracy(pairs: Sequence[tuple[Row, Row]]) -> Comparison:
    before, after = ([both[place].right is True for both in pairs] for place in (0, 1))
    return Comparison.of(Pairs.count(before, after))


def _measures(pairs: Sequence[tuple[Row, Row]]) -> list[Measure]:
    """What both evaluations have besides greedy answers."""
    found: list[Measure] = []
    sampled = [(one, two) for one, two in pairs if one.samples and two.samples]
    if sampled:
        k = min(row.samples for both in sampled for row in both)
        same = {row.samples for both in sampled for row in both} == {k}
        counted: list[tuple[str, Callable[[Row], float]]] = [
            ("avg@k" if not same else f"avg@{k}", lambda row: row.right_samples / row.samples)
        ]
        if k > 1:
            counted.append((f"pass@{k}", lambda row: pass_at_k(row.samples, row.right_samples, k)))
            if same:
                counted.append((f"maj@{k}", lambda row: row.majority or 0.0))
        found += [_measure(name, value, sampled) for name, value in counted]
    names = dict.fromkeys(name for both in pairs[:1] for name in both[0].passes)
    for name in names:
        there = [
            (one, two)
            for one, two in pairs
            if one.passes.get(name) is not None and two.passes.get(name) is not None
        ]
        if there:
            found.append(_measure(name, lambda row, name=name: float(row.passes[name] or 0), there))
    return found


def _measure(name: str, value: Callable[[Row], float], pairs: Sequence[tuple[Row, Row]]) -> Measure:
    before, after = ([value(both[place]) for both in pairs] for place in (0, 1))
    if set(before) | set(after) <= {0.0, 1.0}:  # one answer a problem: as the accuracy
        counts = Pairs.count([one > 0 for one in before], [one > 0 for one in after])
        exact = Comparison.of(counts)
        gain = Gain(exact.delta, exact.delta_ci95, exact.p_value, 1, counts.n)
    else:
        gain = mean_difference([b - a for a, b in zip(before, after, strict=True)])
    return Measure(name, fmean(before), fmean(after), gain)


def _differing(reference: Side, side: Side) -> list[str]:
    """The conditions in which two evaluations differ, or may, but for the weights.

    What neither report holds is no line of one run, which began with one template and one size.
    """
    then, now = reference.report.conditions, side.report.conditions
    of_one_run = reference.run_dir is not None and reference.run_dir == side.run_dir
    names = [name for name in DECIDES if name not in _COMPARED]
    return [
        f"{name.replace('_', ' ')}: {_said(name, getattr(then, name))} in {reference.label}, "
        f"{_said(name, getattr(now, name))} in {side.label}"
        for name in differing(then, now, names, unknown=not of_one_run)
    ]


def _said(name: str, condition: object) -> str:
    """An empty condition has a word as well."""
    if is_unknown(name, condition):
        return "not known"
    if isinstance(condition, tuple):
        return ", ".join(map(str, cast("tuple[object, ...]", condition))) or "none"
    return str(condition) or "none"


def _concluded(one: Against, reference: str, compared: int) -> Against:
    """With its headline and the evidence, in words."""
    found = one.accuracy
    adjusted = f", {p_value_in_words(one.p_holm)} after Holm" if compared > 1 else ""
    evidence = (
        f"95% interval {points_range(found.delta_ci95)} points, exact McNemar "
        f"{p_value_in_words(found.p_value)}{adjusted}; {found.gained} problems gained and "
        f"{found.lost} lost of {found.n}."
    )
    difference = None
    if distinguishable(one.p_holm):
        difference = found.delta
    elif found.smallest_detectable >= 1:
        evidence += f" {_so_many(found.n)} too few to show any difference: evaluate on more."
    else:
        evidence += (
            f" With {found.n} problems, a true difference of about "
            f"{100 * found.smallest_detectable:.1f} points would show in four of five comparisons."
        )
    headline = _headline((reference, one.label), found.baseline, found.final, difference)
    return replace(one, headline=headline, evidence=evidence)


def _headline(
    labels: tuple[str, str], before: float, after: float, difference: float | None
) -> str:
    """`difference` is None where it is not distinguishable from none."""
    reference, label = labels
    figures = f"{percent(after)} against {percent(before)}."
    if difference is None:
        return f"{label} is not distinguishable from {reference}: {figures}"
    word = "above" if difference > 0 else "below"
    return f"{label} is {abs(100 * difference):.1f} points {word} {reference}: {figures}"
