"""The pages of evaluations: all of a run, one as a gallery, two compared problem by problem."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from visual_r1.evaluation.deciding import DECIDES, GREEDY, is_unknown
from visual_r1.evaluation.same import same_problems
from visual_r1.evaluation.statistics import Comparison, Pairs, distinguishable
from visual_r1.hashing import in_hash_order
from visual_r1.pages.judged import CONTROLS, OUTCOMES, graded_again
from visual_r1.pages.pictures import picture_answer
from visual_r1.pages.place import NotThere, Place, place_of
from visual_r1.pages.predictions import (
    FATES,
    PAGE,
    Evaluation,
    Fate,
    Prediction,
    Right,
    evaluations_of,
    open_evaluation,
    prediction_picture,
    predictions,
    right_by_id,
)
from visual_r1.pages.queries import queries
from visual_r1.pages.showing import address, show

router = APIRouter()


@router.get("/runs/{name}/evaluations")
def listed(request: Request, name: str) -> Response:
    """The evaluations of a run, to look at one or to compare two."""
    place = place_of(request)
    found, faults = evaluations_of(name, place.run(name))
    return show(
        request, "evaluations.html.j2",
        name=name, evaluations=found, faults=faults, elsewhere=_elsewhere(place, name),
    )  # fmt: skip


@router.get("/runs/{name}/evaluations/{evaluation}")
def one(
    request: Request,
    name: str,
    evaluation: str,
    kind: Literal["all", "right", "wrong"] = "all",
    family: str | None = None,
    text: str | None = None,
    page: int = 1,
) -> Response:
    """One evaluation: its figures, and its problems as a gallery."""
    place = place_of(request)
    found = _named(place, name, evaluation)
    text, family = text or None, family or None
    with queries().session() as session:
        rows = right_by_id(session, found, text)
        kinds = {
            "all": len(rows),
            "right": sum(row.correct is True for row in rows),
            "wrong": sum(row.correct is not True for row in rows),
        }
        if kind != "all":
            rows = [row for row in rows if (row.correct is True) == (kind == "right")]
        families = _counted(row.family for row in rows)
        ids = [row.id for row in rows if family in (None, row.family)]
        shown = predictions(session, found, _of_page(in_hash_order("gallery", ids), page))
    return show(
        request, "evaluation.html.j2",
        at=_address(("runs", name, "evaluations", evaluation), kind=kind, family=family, text=text),
        name=name, evaluation=found, kind=kind, kinds=kinds, family=family, families=families,
        text=text, page=page, pages=_pages(ids), n=len(ids), shown=shown.values(),
        regraded=graded_again(
            found.folder, found.report.predictions_digest, found.report.dataset_digest
        ),
        ways=CONTROLS, outcomes=OUTCOMES,
        elsewhere=_elsewhere(place, name), here=evaluations_of(name, place.run(name))[0],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A problem with what two evaluations answered."""

    a: Prediction
    b: Prediction


@router.get("/compare")
def compared(
    request: Request,
    a: str,
    b: str,
    fate: Fate = "gained",
    family: str | None = None,
    text: str | None = None,
    page: int = 1,
) -> Response:
    """Two evaluations of the same problems: what was won and what was lost."""
    place = place_of(request)
    first, second = (_by_address(place, named) for named in (a, b))
    text, family = text or None, family or None
    with queries().session() as session:
        # Of one dataset an id has the same pictures, and they need not be read.
        pictures = first.report.dataset_digest != second.report.dataset_digest
        old, new = (
            {row.id: row for row in right_by_id(session, one, pictures=pictures)}
            for one in (first, second)
        )
        same = same_problems(
            {id: row.content for id, row in old.items()},
            {id: row.content for id, row in new.items()},
            (first.title, second.title),
        )
        if text is not None:
            found = {row.id for row in right_by_id(session, first, text)}
            same = [id for id in same if id in found]
        both = [(old[id], new[id]) for id in same if None not in (old[id].correct, new[id].correct)]
        chosen = [pair for pair in both if family in (None, pair[0].family)]
        fates = dict.fromkeys(FATES, 0) | _counted(
            _fate(bool(x.correct), bool(y.correct)) for x, y in chosen
        )
        ids = in_hash_order(
            "gallery", [x.id for x, y in chosen if _fate(bool(x.correct), bool(y.correct)) == fate]
        )
        some = _of_page(ids, page)
        left, right = (predictions(session, one, some) for one in (first, second))
    by_family = {
        name: _paired([pair for pair in both if pair[0].family == name])
        for name in sorted({x.family or "" for x, _ in both})
    }
    differs, unknown = _conditions(first, second)
    whole = _paired(chosen)
    return show(
        request, "compare.html.j2",
        at=_address(("compare",), a=a, b=b, fate=fate, family=family, text=text),
        a=a, b=b, first=first, second=second, fate=fate, fates=fates, meanings=FATES,
        family=family, by_family=by_family, text=text, page=page, pages=_pages(ids), n=len(ids),
        pairs=[Pair(left[id], right[id]) for id in some if id in left and id in right],
        whole=whole, is_seen=distinguishable(whole.p_value), differs=differs,
        unknown=unknown,
        only_one=len(old.keys() ^ new.keys()),
        others=sum(old[id].content != new[id].content for id in old.keys() & new.keys()),
    )  # fmt: skip


@router.get("/runs/{name}/evaluations/{evaluation}/pictures/{index}")
def picture(request: Request, name: str, evaluation: str, index: int, problem: str) -> Response:
    """A picture of a problem as it was asked, by the problem's id and its place there."""
    found = _named(place_of(request), name, evaluation)
    with queries().session() as session:
        return picture_answer(prediction_picture(session, found, problem, index))


def _conditions(first: Evaluation, second: Evaluation) -> tuple[list[str], list[str]]:
    """What two evaluations differ in of what greedy answers depend on; and, of several runs, what
    one of their reports does not hold."""
    differs: list[str] = []
    unknown: list[str] = []
    for name in GREEDY:
        x, y = getattr(first.report, name), getattr(second.report, name)
        if is_unknown(name, x) or is_unknown(name, y):
            if first.run != second.run:
                unknown.append(DECIDES[name].setting)
        elif x != y:
            differs.append(f"{name.replace('_', ' ')} ({x or 'none'} and {y or 'none'})")
    return differs, unknown


def _address(parts: Sequence[str], **query: object) -> Callable[..., str]:
    """The address of a page as it is shown; what it is called with is laid over its query, and
    leads to the first page unless it says another."""
    plain = {"kind": "all", "fate": "gained"}

    def at(**changes: object) -> str:
        asked = {
            name: value for name, value in (query | changes).items() if value != plain.get(name)
        }
        return address(*parts, **asked)

    return at


def _named(place: Place, run: str, name: str) -> Evaluation:
    run_dir = place.run(run)
    # A name is looked up among those there are: it is no path.
    there = {path.name: path for path in (run_dir / "evaluations").glob("[!.]*") if path.is_dir()}
    if name not in there:
        raise NotThere(f"The run {run} has no evaluation {name!r}.")
    return open_evaluation(run, there[name])


def _by_address(place: Place, named: str) -> Evaluation:
    """The evaluation `RUN/NAME`."""
    run, slash, name = named.rpartition("/")
    if not slash:
        raise NotThere(f"{named!r} is no evaluation: its address is RUN/NAME.")
    return _named(place, run, name)


def _elsewhere(place: Place, name: str) -> list[str]:
    """The addresses of the evaluations of all other runs, for a choice."""
    return [
        f"{run}/{path.parent.name}"
        for run, run_dir in sorted(place.runs().items())
        if run != name
        for path in sorted(run_dir.glob("evaluations/[!.]*/report.json"))
    ]


def _fate(before: bool, after: bool) -> Fate:
    if before == after:
        return "right" if after else "wrong"
    return "gained" if after else "lost"


def _paired(pairs: Sequence[tuple[Right, Right]]) -> Comparison:
    return Comparison.of(
        Pairs.count([x.correct is True for x, _ in pairs], [y.correct is True for _, y in pairs])
    )


def _counted(names: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(name or "" for name in names).items()))


def _of_page(ids: Sequence[str], page: int) -> Sequence[str]:
    return ids[PAGE * (max(page, 1) - 1) : PAGE * max(page, 1)]


def _pages(ids: Sequence[str]) -> int:
    return max(1, -(-len(ids) // PAGE))
