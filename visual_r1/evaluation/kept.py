"""Answers that are there already, and hold for an evaluation of now: nobody asks for them again.

Each pass depends on a part of the conditions: greedy answers, with the picture or without, on the
weights, the problems, the prompt and the grading; sampled ones on their number, seed and
temperature as well. So another `evaluation.samples` asks the samples anew and nothing else, and
more problems ask about those that are new.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from visual_r1.errors import DataError
from visual_r1.evaluation.metrics import Conditions, Report, Spending, read_report
from visual_r1.evaluation.predictions import PASSES, Pass, Prediction, kept_predictions
from visual_r1.printing import open_logger

logger = open_logger(__name__)

NOTHING_SPENT = Spending(0, 0, 0, 0)

# What a condition is called where a user sets it, and where it is not set.
_SETTINGS = {
    "sampler_path": "the weights",
    "model": "model.name",
    "dataset_digest": "the dataset",
    "seed": "evaluation.seed",
    "k": "evaluation.samples",
    "temperature": "sampling.temperature",
    "max_new_tokens": "sampling.max_new_tokens",
    "template": "prompt.template",
    "rounding": "reward.rounding",
    "grader_version": "the grader's version",
    "blind": "evaluation.blind",
    "thinking": "model.thinking",
}
# Of greedy answers the first two change nothing, and neither does whether blind ones are asked for.
_OF_SAMPLES = {"seed", "k", "temperature"}
_OF_NO_ANSWER = {"blind"}


@dataclass(frozen=True, slots=True)
class Kept:
    """Answers that need not be asked for again.

    `predictions` has them by the places of their problems, each with the parts that hold. `spent`
    is what the evaluation that stood there had taken, `taken_from` the names of the runs that asked
    for those that come from elsewhere. `changed` says why what stood there is not all that is
    wanted, empty where nothing did.
    """

    predictions: Mapping[int, Prediction]
    spent: Spending = NOTHING_SPENT
    taken_from: str | None = None
    changed: str = ""

    def count(self, passes: Collection[Pass]) -> dict[Pass, int]:
        """To how many problems each of `passes` has its answer."""
        return {name: sum(one.has(name) for one in self.predictions.values()) for name in passes}


def find_kept(own: Path, earlier: Sequence[Path], wanted: Conditions, ids: Sequence[str]) -> Kept:
    """What holds of the evaluation in `own`, then of those in the folders `earlier`.

    `ids` are those of the problems that are asked about, in their order. A folder that is not
    complete is passed over, and one of `earlier` that is damaged with a warning.
    """
    found: dict[int, Prediction] = {}
    kept = Kept(found)
    origins: dict[str, None] = {}
    for folder in (own, *earlier):
        try:
            report = read_report(folder)
            there = {one.id: one for one in kept_predictions(folder)}
        except DataError as error:
            if folder != own and any(folder.glob("*")):
                logger.warning("%s Its answers are not used.", error)
            continue
        if folder == own:
            changed = _changes(report, wanted, len(there), len(ids))
            kept = replace(kept, spent=report.spending, changed=changed)
        holding: set[Pass] = {name for name in PASSES if _holds(name, report.conditions, wanted)}
        used = False
        for place, name in enumerate(ids):
            if name not in there:
                continue
            parts = _only(there[name], holding)
            before = found.get(place)
            found[place] = parts if before is None else _with(before, parts)
            used = used or (found[place] != before and any(parts.has(one) for one in holding))
        if used:
            origin = report.taken_from or ("" if folder == own else folder.name)
            origins |= dict.fromkeys(filter(None, origin.split(", ")))
    return replace(kept, taken_from=", ".join(origins) or None)


def _holds(name: Pass, there: Conditions, wanted: Conditions) -> bool:
    """Whether an answer of this pass under the conditions `there` is one under those `wanted`."""
    spared = _OF_NO_ANSWER if name == "sampled" else _OF_NO_ANSWER | _OF_SAMPLES
    then, now = asdict(there), asdict(wanted)
    return all(then[part] == now[part] for part in then.keys() - spared)


def _changes(there: Report, wanted: Conditions, count: int, wanted_count: int) -> str:
    then, now = asdict(there.conditions), asdict(wanted)
    changes = [
        f"{_SETTINGS[name]} is {now[name]} and was {then[name]}"
        for name in now
        if now[name] != then[name]
    ]
    if count != wanted_count:
        changes.append(f"{wanted_count} problems are asked about and {count} were")
    return "; ".join(changes)


def _only(one: Prediction, holding: Collection[Pass]) -> Prediction:
    """The parts of a prediction that hold."""
    return replace(
        one,
        greedy=one.greedy if "greedy" in holding else None,
        blind=one.blind if "blind" in holding else None,
        sampled=one.sampled if "sampled" in holding else (),
        second=one.second if "scan_only" in holding else None,
        question_only=one.question_only if "question_only" in holding else None,
        failures={name: why for name, why in one.failures.items() if name in holding},
    )


def _with(one: Prediction, other: Prediction) -> Prediction:
    """`one`, with the passes that it has not from `other`."""
    same = not one.has("greedy") or one.greedy == other.greedy
    return replace(
        one,
        greedy=one.greedy if one.has("greedy") else other.greedy,
        blind=one.blind if one.has("blind") else other.blind,
        sampled=one.sampled or other.sampled,
        # It read the scan of the greedy answer.
        second=other.second if same and not one.has("scan_only") else one.second,
        question_only=one.question_only if one.has("question_only") else other.question_only,
        failures=dict(one.failures)
        | {
            name: why
            for name, why in other.failures.items()
            if name in PASSES and not one.has(name)
        },
    )
