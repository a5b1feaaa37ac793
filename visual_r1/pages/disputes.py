"""Labels in dispute, decided by keyboard: gold is right, another answer is, or the problem goes.

Which labels are in dispute, `visual_r1.disputes` finds; that reads and grades all answers of a run,
so a process of its own does it, and what it found is kept beside the runs until a run has more
answers. Decisions are recorded at once, in `disputes.jsonl` of the working directory.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from fastapi import APIRouter
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from visual_r1.disputes.dispute import Dispute
from visual_r1.errors import DataError
from visual_r1.grading import GRADER_VERSION
from visual_r1.hashing import digest
from visual_r1.opening import read_file
from visual_r1.pages.guard import posted
from visual_r1.pages.place import NotThere, Place, place_of
from visual_r1.pages.problems import StoredProblem, problem_or_why_not
from visual_r1.pages.queries import queries
from visual_r1.pages.showing import address, show
from visual_r1.pages.sound import file_states
from visual_r1.runs.decisions import Decision, Kind, read_decisions, record
from visual_r1.storage import write_text

router = APIRouter()

PAGE = 20
_MOST_BYTES = 64 * 2**20
_COMMAND = [
    *(sys.executable, "-P", "-c"),
    "import sys; from visual_r1.disputes.command import main; sys.exit(main(sys.argv[1:]))",
]
_ANSWERS = (
    "rollouts/chunk-*.parquet",
    "evaluations/[!.]*/report.json",
    "evaluations/[!.]*/predictions.parquet",
)
_AGAIN_AFTER_S = 30.0
"""So long what was found with trouble is shown before it is looked for anew."""


@dataclass(frozen=True, slots=True)
class Disputes:
    """The disputes of a run, the least likely first, as `visual-r1 disputes --json` has them."""

    disputes: tuple[Dispute, ...]
    problems: Mapping[str, int]
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A dispute with its problem and what was decided about it."""

    dispute: Dispute
    decision: Decision | None
    problem: StoredProblem | None
    why_not: str


_FOUND = TypeAdapter(list[Disputes])


@dataclass
class Search:
    """The searches that are under way, and why the last ones failed, by what they look through.

    What was found with trouble (a damaged file, a dataset that is away) is shown, and not kept: who
    mends that changes none of the answers.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _under_way: set[str] = field(default_factory=set[str])
    _failed: dict[str, str] = field(default_factory=dict[str, str])
    _troubled: dict[str, tuple[Disputes, float]] = field(
        default_factory=dict[str, tuple[Disputes, float]]
    )

    def found(self, place: Place, run_dir: Path) -> Disputes | str | None:
        """What was found; a sentence where that failed; None while it is under way."""
        key = _key(run_dir)
        kept = place.state_dir / "disputes" / f"{key}.json"
        if kept.exists():
            try:
                [found] = _FOUND.validate_json(read_file(kept, _MOST_BYTES))
                if not found.trouble:
                    return found
            except (OSError, ValueError, ValidationError):  # damaged: it is made again
                kept.unlink(missing_ok=True)
        with self._lock:
            if key in self._failed:
                return self._failed.pop(key)
            troubled, since = self._troubled.get(key, (None, 0.0))
            if troubled is not None and time.monotonic() - since < _AGAIN_AFTER_S:
                return troubled
            if key not in self._under_way:
                self._under_way.add(key)
                work = (key, run_dir.absolute(), kept)
                threading.Thread(target=self._search, args=work, daemon=True).start()
            return troubled

    def _search(self, key: str, run_dir: Path, kept: Path) -> None:
        failed, said = "", ""
        try:
            given = [str(run_dir), "--json", "--all"]
            done = subprocess.run(
                [*_COMMAND, *given], capture_output=True, text=True, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            said = done.stderr.strip()
            # With trouble it has another status, and says what it found all the same.
            [found] = _FOUND.validate_json(done.stdout or "none")
            with self._lock:
                self._troubled.pop(key, None)
                if found.trouble:
                    self._troubled[key] = found, time.monotonic()
            if not found.trouble:
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_text(kept, done.stdout)
        except ValidationError:
            failed = (said.splitlines() or ["it said nothing"])[-1]
        except OSError as error:
            failed = f"it could not be kept or begun: {error}"
        with self._lock:
            self._under_way.discard(key)
            if failed:
                self._failed[key] = failed


@cache
def search() -> Search:
    """That of this process."""
    return Search()


def _key(run_dir: Path) -> str:
    """Of all answers as they are now, and of the grader."""
    stats: list[Any] = [str(GRADER_VERSION), str(run_dir.absolute())]
    paths = sorted(path for pattern in _ANSWERS for path in run_dir.glob(pattern))
    for path, state in zip(paths, file_states(paths), strict=True):
        stats.append([str(path.relative_to(run_dir)), state])
    return digest(stats, 16)


@router.get("/runs/{name}/disputes")
def listed(
    request: Request, name: str, which: Literal["all", "open", "decided"] = "all", page: int = 1
) -> Response:
    """The labels in dispute of a run, with what was decided about them."""
    place = place_of(request)
    run_dir = place.run(name)
    found = search().found(place, run_dir)
    if not isinstance(found, Disputes):
        return show(request, "disputes.html.j2", name=name, found=None, failed=found or "")
    decisions = read_decisions(_output_dir(run_dir))
    rows = [(one, decisions.about(one.problem_id, one.content)) for one in found.disputes]
    decided = sum(decision is not None for _, decision in rows)
    if which != "all":
        rows = [row for row in rows if (row[1] is None) == (which == "open")]
    with queries().session() as session:
        shown = [
            Shown(one, decision, *problem_or_why_not(session, run_dir, one.problem_id))
            for one, decision in rows[PAGE * (max(page, 1) - 1) : PAGE * max(page, 1)]
        ]

    def at(**changes: object) -> str:
        asked: dict[str, object] = {"which": which, **changes}
        if asked["which"] == "all":
            del asked["which"]
        return address("runs", name, "disputes", **asked)

    return show(
        request, "disputes.html.j2",
        name=name, found=found, failed="", shown=shown, which=which, at=at, decided=decided,
        n=len(found.disputes), page=page, pages=max(1, -(-len(rows) // PAGE)),
        file=_output_dir(run_dir) / "disputes.jsonl",
    )  # fmt: skip


@router.post("/runs/{name}/disputes")
async def decided(request: Request, name: str) -> Response:
    """Record a decision, and show the list again."""
    return await run_in_threadpool(_decide, request, name, await posted(request))


def _decide(request: Request, name: str, given: Mapping[str, str]) -> Response:
    place = place_of(request)
    run_dir = place.run(name)
    found = search().found(place, run_dir)
    rows = found.disputes if isinstance(found, Disputes) else ()
    one = next((row for row in rows if row.content == given.get("content")), None)
    decision: Kind | None = next((k for k in get_args(Kind) if k == given.get("decision")), None)
    if one is None or decision is None:
        raise NotThere(
            "This label is in dispute no more, since the run has other answers by now: open the "
            "list anew."
        )
    record(
        _output_dir(run_dir), one.problem_id, one.content, decision,
        gold=one.gold, answer=given.get("answer", "") if decision == "other" else "",
        why=given.get("why", ""),
    )  # fmt: skip
    if request.headers.get("accept", "").startswith("application/json"):
        return Response(json.dumps({"decision": decision}), media_type="application/json")
    return RedirectResponse(_back(request, name), 303)


def _back(request: Request, name: str) -> str:
    """The list as it was, by the query of the form's address."""
    query = {key: value for key, value in request.query_params.items() if key in ("which", "page")}
    return address("runs", name, "disputes", **query)


def _output_dir(run_dir: Path) -> Path:
    """The working directory of a run: where its decisions are kept."""
    parents = run_dir.absolute().parents
    if len(parents) < 2:
        raise DataError(f"{run_dir} lies in no working directory, so nothing can be decided there.")
    return parents[1]
