"""The pages of what a policy wrote: rollouts, a group, a problem, and their pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter
from markupsafe import Markup
from pydantic import TypeAdapter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from visual_r1.data.problem import Problem
from visual_r1.errors import DataError
from visual_r1.evaluation.statistics import wilson
from visual_r1.grading import extract_answer, is_equivalent
from visual_r1.pages.lines import kept_lines
from visual_r1.pages.marked import marked, masked_scan
from visual_r1.pages.pictures import picture_answer
from visual_r1.pages.place import NotThere, place_of
from visual_r1.pages.predictions import Evaluation, Prediction, evaluations_of, predictions
from visual_r1.pages.problems import (
    dataset_folder,
    find_picture,
    problem_or_why_not,
)
from visual_r1.pages.queries import Session, Vanished, queries
from visual_r1.pages.rollouts import OUTCOMES, PAGE, VERDICTS, Asked, Counts, Page, Rollouts
from visual_r1.pages.samples import (
    MOST,
    GroupPlace,
    Sample,
    group_samples,
    neighbours,
    problem_samples,
)
from visual_r1.pages.showing import show
from visual_r1.pages.sound import Files, sound_files
from visual_r1.report.charts import Curve, Point, curve_chart
from visual_r1.rewards.blindfold.choices import in_order, unaided
from visual_r1.rewards.blindfold.masking import (
    Mask,
    extract_scan,
    mask_scan,
    named_by_others,
    reasons_of,
)
from visual_r1.rewards.grounding import opened, spoken
from visual_r1.storage import read_json

router = APIRouter()

_SETTINGS = TypeAdapter(dict[str, Any])
_MOST_ANSWERS = 60
"""Different answers to a problem that are compared with each other; others stand alone."""


@router.get("/runs/{name}/rollouts")
def rollouts(request: Request, name: str) -> Response:
    """The rollouts that the query asks for, and how many there are of what."""
    run_dir = place_of(request).run(name)
    asked = Asked.of(request.query_params)
    files, page, counts = _looked_up(run_dir, asked)
    shown = show(
        request, "rollouts.html.j2",
        name=name, asked=asked, files=files, page=page, counts=counts, most=PAGE,
        verdicts=VERDICTS, outcomes=OUTCOMES,
        tallest=max((one.n for one in counts.steps), default=1) if counts else 1,
    )  # fmt: skip
    # Making them takes longer than one answer from the files: the next one has them.
    shown.background = BackgroundTask(kept_lines().make_ready, files)
    return shown


def _looked_up(run_dir: Path, asked: Asked) -> tuple[Files, Page | None, Counts | None]:
    try:
        return _asked_of(run_dir, asked)
    except Vanished:  # a run that trains wrote a file anew: once more, with the files as they are
        return _asked_of(run_dir, asked)


def _asked_of(run_dir: Path, asked: Asked) -> tuple[Files, Page | None, Counts | None]:
    files = sound_files().rollouts(run_dir)
    if not files.paths:
        return files, None, None
    with kept_lines().lent(files, makes=False) as table, queries().session() as session:
        found = Rollouts(session, files, asked, table)
        return files, found.page(), found.counts()


@dataclass(frozen=True, slots=True)
class Part:
    """A component of a reward: its value, what it weighs, and what it adds to the reward."""

    name: str
    value: float
    weight: float
    worth: float


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample with what a page makes of it.

    `answer` is None where none is found. `scan` shows what was masked of the scan and why, and
    `scan_note` what there is to be said of that; `choices` are those that the second pass was
    shown, where their order was its own.
    """

    stored: Sample
    text: Markup
    answer: str | None
    parts: tuple[Part, ...]
    scan: Markup | None = None
    scan_note: str = ""
    choices: tuple[str, ...] = ()


@router.get("/runs/{name}/group")
def group(request: Request, name: str, step: int, group: int) -> Response:
    """All samples of a group side by side."""
    run_dir = place_of(request).run(name)
    place = GroupPlace(step, group)
    files = sound_files().rollouts(run_dir)
    if not files.paths:
        raise NotThere(f"The run {name} has no rollouts yet.")
    with queries().session() as session:
        samples = group_samples(session, files, place)
        if not samples:
            raise NotThere(f"The run {name} has no group {group} in step {step}.")
        before, after = neighbours(session, files, place)
        problem, why_not = problem_or_why_not(session, run_dir, samples[0].problem_id)
    shown = shown_samples(samples, problem and problem.problem, settings_of(run_dir))
    came_to = {(one.verdict == "right", one.second_verdict == "right") for one in samples}
    advantages = [abs(one.advantage) for one in samples if one.advantage is not None]
    rewards = [one.reward for one in samples if one.reward is not None]
    return show(
        request, "group.html.j2",
        name=name, place=place, samples=shown, before=before, after=after, faults=files.faults,
        id=samples[0].problem_id, problem=problem, why_not=why_not,
        right=sum(one.verdict == "right" for one in samples),
        contrast=len(came_to) > 1,
        mean=sum(rewards) / len(rewards) if rewards else None,
        widest=max(advantages, default=0.0) or 1.0,
    )  # fmt: skip


@router.get("/runs/{name}/problem")
def problem(request: Request, name: str, id: str) -> Response:
    """A problem: what was answered to it in all steps, and in evaluations."""
    run_dir = place_of(request).run(name)
    files = sound_files().rollouts(run_dir)
    evaluations, faults = evaluations_of(name, run_dir)
    with queries().session() as session:
        samples = problem_samples(session, files, id) if files.paths else []
        stored, why_not = problem_or_why_not(session, run_dir, id)
        evaluated = _evaluated(session, evaluations, id)
    if not samples and stored is None and not evaluated:
        raise NotThere(f"Neither the rollouts of {name} nor its dataset have a problem {id!r}.")
    settings = settings_of(run_dir)
    rounding = _section(settings, "reward").get("rounding") or "exact"
    return show(
        request, "problem.html.j2",
        name=name, id=id, problem=stored, why_not=why_not, samples=samples, most=MOST,
        newest=sorted(samples, key=lambda one: (-one.step, one.group, one.sample))[:200],
        by_step=by_step(samples), chart=_curve(samples), evaluated=evaluated,
        answers=answers_of(samples, stored.problem.answer if stored else None, rounding),
        faults=[*files.faults, *faults], right=sum(one.verdict == "right" for one in samples),
        interval=wilson(sum(one.verdict == "right" for one in samples), len(samples)),
    )  # fmt: skip


@router.get("/runs/{name}/pictures/{dataset}/{index}")
def picture(request: Request, name: str, dataset: str, index: int, problem: str) -> Response:
    """A picture of a problem, by its dataset's digest, the problem's id, and its place there."""
    folder = dataset_folder(place_of(request).run(name), dataset)
    with queries().session() as session:
        return picture_answer(find_picture(session, folder, problem, index))


def settings_of(run_dir: Path) -> Mapping[str, Any]:
    """The settings of a run as they are stored; empty where the file is damaged or missing."""
    try:
        return read_json(run_dir / "config.json", _SETTINGS)
    except (OSError, ValueError):
        return {}


def shown_samples(
    samples: Sequence[Sample], problem: Problem | None, settings: Mapping[str, Any]
) -> list[ShownSample]:
    """The samples of a group as its page shows them."""
    named: Sequence[Any] = [None] * len(samples)
    least = cast(int, _section(settings, "second_pass").get("named_by") or 0)
    if least:
        named = named_by_others([_spoken(one) for one in samples], least)
    shown: list[ShownSample] = []
    for sample, others in zip(samples, named, strict=True):
        scan, note = _scan(sample, problem, settings, others)
        answer = extract_answer(opened(sample.response, _begins_inside(sample.response)))
        parts = _parts(sample, settings)
        choices: tuple[str, ...] = ()
        if problem is not None and sample.second_order:
            choices = in_order(unaided(problem), sample.second_order).choices
        text = marked(sample.response)
        shown.append(ShownSample(sample, text, answer, parts, scan, note, choices))
    return shown


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _parts(sample: Sample, settings: Mapping[str, Any]) -> tuple[Part, ...]:
    """The components in alphabetical order, those that weigh something first."""
    reward, second = _section(settings, "reward"), _section(settings, "second_pass")
    parts: list[Part] = []
    for name, value in sample.components.items():
        if value is None:
            continue
        if name == "second_pass":
            weight = float(second.get("reward") or 0.0)
            worth = weight * value if value else float(second.get("penalty") or 0.0)
        else:
            key = "custom_weight" if name == "custom" else name
            weight = float(reward.get(key) or 0.0)
            if name == "kl":  # it is part of the advantage, by a coefficient of its own
                weight = float(_section(settings, "algorithm").get("kl_coefficient") or 0.0)
            worth = weight * value
        parts.append(Part(name, value, weight, worth))
    return tuple(sorted(parts, key=lambda part: (part.weight == 0.0, part.name)))


def _begins_inside(response: str) -> bool:
    """Whether the prompt wrote `<think>`: the response closes what it never opened."""
    before, closed, _ = response.partition("</think>")
    return bool(closed) and "<think>" not in before


def _spoken(sample: Sample) -> str:
    return spoken(sample.response, _begins_inside(sample.response))


def _scan(
    sample: Sample, problem: Problem | None, settings: Mapping[str, Any], named: Any
) -> tuple[Markup | None, str]:
    """What was masked in a scan and why, worked out anew and held against what is stored."""
    scan = extract_scan(_spoken(sample))
    if sample.second_verdict is None or scan is None:
        return None, ""
    if problem is None:
        return None, "what was masked is known only with the problem"
    own = extract_answer(opened(sample.response, _begins_inside(sample.response)))
    answers = [problem.answer] if own is None else [problem.answer, own]
    rounding = _section(settings, "reward").get("rounding") or "exact"
    masks = _section(settings, "second_pass").get("masks") or "all"
    again = mask_scan(scan, problem, answers, rounding, masks, named)
    if sample.scan_read is not None and again.text != sample.scan_read:
        return None, (
            "it was masked by another version, or by other scans of the group: what the second "
            "pass read is as it is stored, and why is not known"
        )
    found: Sequence[Mask] = reasons_of(scan, problem, answers, rounding, masks, named)
    return masked_scan(scan, found), again.leak


@dataclass(frozen=True, slots=True)
class StepOfProblem:
    """What became of a problem in a step."""

    step: int
    group: int
    n: int
    right: int


def by_step(samples: Sequence[Sample]) -> list[StepOfProblem]:
    """The groups of a problem, in order."""
    found: dict[tuple[int, int], list[int]] = {}
    for one in samples:
        counted = found.setdefault((one.step, one.group), [0, 0])
        counted[0] += 1
        counted[1] += one.verdict == "right"
    return [StepOfProblem(*place, n, right) for place, (n, right) in sorted(found.items())]


def _curve(samples: Sequence[Sample]) -> Markup | None:
    steps = by_step(samples)
    if len(steps) < 2:
        return None
    points: list[Point] = [(float(one.step), one.right / one.n) for one in steps]
    description = f"Share of right samples of this problem in {len(steps)} groups."
    curve = Curve(
        "Pass rate by step", description, tuple(points), y_range=(0.0, 1.0), show="{:.0%}".format
    )
    return curve_chart(curve, "pass-rate")


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """An answer in its most frequent spelling, with all that are equivalent to it.

    `answer` is None for responses without one. `is_gold` says whether the grader would take it.
    """

    answer: str | None
    n: int
    spellings: tuple[str, ...]
    is_gold: bool
    first: int
    last: int


def answers_of(
    samples: Sequence[Sample], gold: str | None, rounding: Any = "exact"
) -> list[AnswerCount]:
    """The answers of samples counted by the grader's equivalence, the most frequent first."""
    spelled: dict[str | None, list[Sample]] = {}
    for one in samples:
        answer = extract_answer(opened(one.response, _begins_inside(one.response)))
        spelled.setdefault(answer, []).append(one)
    ordered = sorted(spelled.items(), key=lambda pair: -len(pair[1]))
    classes: list[list[tuple[str | None, list[Sample]]]] = []
    for answer, given in ordered:
        same = None
        if answer is not None and len(classes) <= _MOST_ANSWERS:
            same = next(
                (
                    one
                    for one in classes
                    if one[0][0] is not None and is_equivalent(answer, one[0][0], rounding)
                ),
                None,
            )
        if same is None:
            classes.append([(answer, given)])
        else:
            same.append((answer, given))
    found: list[AnswerCount] = []
    for members in classes:
        steps = [one.step for _, given in members for one in given]
        answer = members[0][0]
        is_gold = any(one.verdict == "right" for _, given in members for one in given) or (
            gold is not None and answer is not None and is_equivalent(answer, gold, rounding)
        )
        spellings = tuple(text for text, _ in members if text is not None)
        found.append(AnswerCount(answer, len(steps), spellings, is_gold, min(steps), max(steps)))
    return sorted(found, key=lambda one: -one.n)


def _evaluated(
    session: Session, evaluations: Sequence[Evaluation], id: str
) -> list[tuple[Evaluation, Prediction, Markup]]:
    """What was answered to a problem in each evaluation that has it."""
    found: list[tuple[Evaluation, Prediction, Markup]] = []
    for one in evaluations:
        try:
            made = predictions(session, one, [id]).get(id)
        except DataError:
            continue
        if made is not None:
            found.append((one, made, marked(made.response or "")))
    return found
