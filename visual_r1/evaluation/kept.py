"""Answers that are there already, and hold for an evaluation of now: nobody asks for them again.

Each pass depends on a part of the conditions (`answers.depends_on`): greedy answers, with the
picture or without, on the weights, the problems, the prompt and the grading; sampled ones on their
number, seed and temperature as well. So another `evaluation.samples` asks the samples anew and
nothing else, and more problems ask about those that are new.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from visual_r1.errors import DataError
from visual_r1.evaluation.answers import NOTHING_FOUND, Found, depends_on
from visual_r1.evaluation.deciding import DECIDES, Conditions, vouched
from visual_r1.evaluation.metrics import Report, Spending, read_report
from visual_r1.evaluation.prediction import PASSES, Pass, Prediction
from visual_r1.evaluation.predictions import kept_predictions
from visual_r1.printing import open_logger

logger = open_logger(__name__)

NOTHING_SPENT = Spending(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Kept:
    """Answers that need not be asked for again.

    `predictions` has them by the places of their problems, each with the parts that hold. `spent`
    is what the evaluation that stood there had taken, `taken_from` the names of the runs that asked
    for those that come from elsewhere. `changed` says why what stood there is not all that is
    wanted, empty where nothing did; `broke_off` whether answers are from an evaluation that did.
    """

    predictions: Mapping[int, Prediction]
    spent: Spending = NOTHING_SPENT
    taken_from: str | None = None
    changed: str = ""
    broke_off: bool = False

    def count(self, passes: Collection[Pass]) -> dict[Pass, int]:
        """To how many problems each of `passes` has its answer."""
        return {name: sum(one.has(name) for one in self.predictions.values()) for name in passes}


def find_kept(
    own: Path,
    earlier: Sequence[Path],
    wanted: Conditions,
    ids: Sequence[str],
    broken_off: Found = NOTHING_FOUND,
    golds: Sequence[str] = (),
) -> Kept:
    """What holds of the evaluation in `own`, then of the one that broke off there, then of those in
    the folders `earlier`.

    `ids` are those of the problems that are asked about, in their order, `golds` their gold
    answers: what was graded by another one does not hold. A folder that is not complete is passed
    over, and one of `earlier` that is damaged with a warning.
    """
    found: dict[int, Prediction] = {}
    kept = Kept(found)
    origins: dict[str, None] = {}

    def use(there: Mapping[str, Prediction], holding: Collection[Pass]) -> bool:
        """Take what is not had yet; whether there was anything."""
        used = False
        for place, name in enumerate(ids):
            if name not in there:
                continue
            parts = _only(there[name], holding)
            before = found.get(place)
            found[place] = parts if before is None else _with(before, parts)
            used = used or (found[place] != before and any(parts.has(one) for one in holding))
        return used

    for folder in (own, *earlier):
        try:
            report = read_report(folder)
            graded_by = dict(zip(ids, golds, strict=False))
            there = {one.id: one for one in kept_predictions(folder, graded_by)}
        except DataError as error:
            if folder != own and any(folder.glob("*")):
                logger.warning("%s Its answers are not used.", error)
        else:
            if folder == own:
                changed = _changes(report, wanted, len(there), len(ids))
                kept = replace(kept, spent=report.spending, changed=changed)
            holding: list[Pass] = [
                name for name in PASSES if _holds(name, vouched(report.conditions, wanted), wanted)
            ]
            if use(there, holding):
                origin = report.taken_from or ("" if folder == own else folder.name)
                origins |= dict.fromkeys(filter(None, origin.split(", ")))
        if folder == own:
            kept = replace(kept, broke_off=use(broken_off.predictions(), PASSES))
    return replace(kept, taken_from=", ".join(origins) or None)


def _holds(name: Pass, there: Conditions, wanted: Conditions) -> bool:
    """Whether an answer of this pass under the conditions `there` is one under those `wanted`."""
    return depends_on(name, there) == depends_on(name, wanted)


def _changes(there: Report, wanted: Conditions, count: int, wanted_count: int) -> str:
    then, now = asdict(vouched(there.conditions, wanted)), asdict(wanted)
    changes = [
        f"{DECIDES[name].setting} is {now[name]} and was {then[name]}"
        for name in now
        if now[name] != then[name]
    ]
    if count != wanted_count:
        changes.append(f"{wanted_count} problems are asked about and {count} were")
    return "; ".join(changes)


def _only(one: Prediction, holding: Collection[Pass]) -> Prediction:
    """The parts of a prediction that hold."""
    reads, unseen = "scan_only" in holding, "question_only" in holding
    return replace(
        one,
        greedy=one.greedy if "greedy" in holding else None,
        blind=one.blind if "blind" in holding else None,
        other_image=one.other_image if "other_image" in holding else None,
        masked_image=one.masked_image if "masked_image" in holding else None,
        described=one.described if "described" in holding else None,
        sampled=one.sampled if "sampled" in holding else (),
        second=one.second if reads else None,
        scan_only_roundings=one.scan_only_roundings if reads else None,
        question_only=one.question_only if unseen else None,
        question_only_response=one.question_only_response if unseen else None,
        question_only_roundings=one.question_only_roundings if unseen else None,
        failures={name: why for name, why in one.failures.items() if name in holding},
    )


def _with(one: Prediction, other: Prediction) -> Prediction:
    """`one`, with the passes that it has not from `other`."""
    unseen = one if one.has("question_only") else other
    both = replace(
        one,
        greedy=one.greedy if one.has("greedy") else other.greedy,
        blind=one.blind if one.has("blind") else other.blind,
        other_image=one.other_image if one.has("other_image") else other.other_image,
        masked_image=one.masked_image if one.has("masked_image") else other.masked_image,
        described=one.described if one.has("described") else other.described,
        sampled=one.sampled or other.sampled,
        question_only=unseen.question_only,
        question_only_response=unseen.question_only_response,
        question_only_roundings=unseen.question_only_roundings,
        failures=dict(one.failures)
        | {
            name: why
            for name, why in other.failures.items()
            if name in PASSES and not one.has(name)
        },
    )
    # It read one scan, and holds of no other.
    if one.has("scan_only") or both.scan_source != other.scan_source:
        return both
    return replace(both, second=other.second, scan_only_roundings=other.scan_only_roundings)
