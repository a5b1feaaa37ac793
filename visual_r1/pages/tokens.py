"""A response token by token, in colour: by log-probability, by ratio, by what the picture tells.

The figures are asked of the run's server once a click, by a process of its own (`scoring`), and
kept beside the runs, in `.visual-r1/pages/tokens/`; a run's folder stays as it is.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from visual_r1.errors import VisualR1Error
from visual_r1.hashing import digest
from visual_r1.pages.colours import By, legend, shades, strongest, totals
from visual_r1.pages.place import NotThere, Place, place_of
from visual_r1.pages.reading import RunFacts, facts_of
from visual_r1.pages.scored import HIDDEN, Wanted, read_scored
from visual_r1.pages.servers import require_named, weights_of
from visual_r1.pages.showing import address, show
from visual_r1.prices import Tokens, prices_of
from visual_r1.runs.folder import config_of_run
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.tables import compute, read_table, said_of

router = APIRouter()

_COMMAND = [sys.executable, "-P", "-m", "visual_r1.pages.scoring"]
_TAIL = 400


@dataclass
class Scoring:
    """Responses that are being scored: one at a time, since an engine's home has one engine."""

    alone: threading.Lock = field(default_factory=threading.Lock)
    changing: threading.Lock = field(default_factory=threading.Lock)
    under_way: set[str] = field(default_factory=set[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def begin(self, key: str, run_dir: Path, wanted: Wanted, into: Path) -> None:
        """Have it scored, unless it is already under way."""
        with self.changing:
            if key in self.under_way:
                return
            self.under_way.add(key)
            self.failed.pop(key, None)
        work = (key, run_dir, wanted, into)
        threading.Thread(target=self._score, args=work, daemon=True).start()

    def _score(self, key: str, run_dir: Path, wanted: Wanted, into: Path) -> None:
        asked = TypeAdapter(Wanted).dump_json(wanted).decode()
        said = ""
        try:
            with self.alone:
                # Its input stays open for as long as this process lives.
                done = subprocess.Popen(
                    [*_COMMAND, str(run_dir), asked, str(into)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
                assert done.stderr is not None and done.stdin is not None
                with done.stdin, done.stderr:
                    said = done.stderr.read().decode("utf-8", "replace").strip()
                    status = done.wait()
            if status:
                said = (said.splitlines() or [f"it ended with status {status}"])[-1][-_TAIL:]
        except OSError as error:
            status, said = 1, f"No process could be started for it: {error}"
        with self.changing:
            self.under_way.discard(key)
            if status:
                self.failed[key] = said


@dataclass(frozen=True, slots=True)
class Named:
    """What an address says of a response: its sample, or its evaluation and problem."""

    step: int | None = None
    group: int | None = None
    sample: int | None = None
    evaluation: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What asking takes: how many tokens are read, in which questions, and what that costs."""

    questions: int
    tokens: float
    usd: float | None
    server: str


@router.get("/runs/{name}/tokens")
def shown(
    request: Request, name: str, named: Annotated[Named, Depends()], by: By = "logprob"
) -> Response:
    """One response in colour; where it was not scored yet, what that would take."""
    place = place_of(request)
    run = facts_of(name, place.run(name))
    wanted = wanted_of(run, named)
    key = key_of(run, wanted)
    scored = read_scored(_file(place, key))
    scoring = _scoring(request)
    failed, asked, refused = scoring.failed.get(key), None, ""
    if scored is None and key not in scoring.under_way:
        try:
            asked = price_of(run, wanted)
        except VisualR1Error as error:
            refused = str(error)
    return show(
        request,
        "tokens.html.j2",
        run=run,
        wanted=wanted,
        back=_back(name, wanted),
        here=_here(name, wanted),
        by=by,
        scored=scored,
        shades=shades(scored, by) if scored else (),
        legend=legend(by),
        strongest=strongest(scored) if scored else (),
        totals=totals(scored) if scored else (),
        under_way=key in scoring.under_way,
        failed=failed,
        asked=asked,
        refused=refused,
    )


@router.post("/runs/{name}/tokens")
def begin(request: Request, name: str, named: Annotated[Named, Depends()]) -> Response:
    """Have one response scored; the page then shows how far that is."""
    place = place_of(request)
    run = facts_of(name, place.run(name))
    wanted = wanted_of(run, named)
    require_named(run.folder, os.environ)
    key = key_of(run, wanted)
    if read_scored(_file(place, key)) is None:
        _scoring(request).begin(key, run.folder.absolute(), wanted, _file(place, key).absolute())
    return RedirectResponse(_here(name, wanted), 303)


def wanted_of(run: RunFacts, named: Named) -> Wanted:
    """The response that an address names; raises `NotThere`."""
    if named.evaluation is not None and named.problem is not None:
        return _predicted(run, named.evaluation, named.problem)
    step, group, sample = named.step, named.group, named.sample
    if step is None or group is None or sample is None:
        raise NotThere("The address names no response: step, group and sample, or an evaluation.")
    columns = [
        "step", "group", "sample", "problem_id", "response", "stop_reason", "response_tokens",
    ]  # fmt: skip
    for path in _chunks(run, step):
        table: Any = read_rollouts(path, columns)
        for row in table.filter(_equal(table, step=step, group=group, sample=sample)).to_pylist():
            return Wanted(
                run=run.folder.name,
                problem=row["problem_id"],
                text=row["response"],
                stopped=row["stop_reason"] != "length",
                tokens=row["response_tokens"],
                split="train",
                step=step,
                group=group,
                sample=sample,
            )
    raise NotThere(f"The run {run.name!r} has no sample {sample} of group {group} in step {step}.")


def _predicted(run: RunFacts, evaluation: str, problem: str) -> Wanted:
    if evaluation not in run.evaluations:
        raise NotThere(f"The run {run.name!r} has no evaluation {evaluation!r}.")
    path = run.folder / "evaluations" / evaluation / "predictions.parquet"
    with said_of(path, "evaluate again"):
        table: Any = read_table(path, ["id", "response", "truncated", "response_tokens"])
    for row in table.filter(_equal(table, id=problem)).to_pylist():
        if row["response"] is None:
            break
        return Wanted(
            run=run.folder.name,
            problem=problem,
            text=row["response"],
            stopped=not row["truncated"],
            tokens=row["response_tokens"],
            split="test",
            evaluation=evaluation,
        )
    raise NotThere(f"The evaluation {evaluation!r} has no response to the problem {problem!r}.")


def _equal(table: Any, **values: object) -> Any:
    """Which rows of the table have these values."""
    wanted: Any = None
    for name, value in values.items():
        same = compute.equal(table[name], value)
        wanted = same if wanted is None else compute.and_(wanted, same)
    return wanted


def _chunks(run: RunFacts, step: int) -> Iterable[Path]:
    """The files with rollouts that may hold the step: a chunk is as long as the run's setting."""
    paths = Journal(run.folder).chunks()
    length = run.config.get("train.chunk_steps")
    near = step // length if isinstance(length, int) and length else 0
    return sorted(paths, key=lambda path: abs(int(path.stem.rpartition("-")[2]) - near))


def key_of(run: RunFacts, wanted: Wanted) -> str:
    """Of what is asked: the response, and the weights it is asked of."""
    wrote, other, newer = weights_of(run.folder, wanted)
    weights = [wrote.path, other.path if other else None, newer]
    return digest([str(run.folder.absolute()), asdict(wanted), weights, HIDDEN], 32)


def price_of(run: RunFacts, wanted: Wanted) -> Asked:
    """What asking takes, by the mean prompt of the run; raises where it may not be asked."""
    kind = require_named(run.folder, os.environ)
    _, other, _ = weights_of(run.folder, wanted)
    rows = [row for row in run.metrics if row.get("groups") and row.get("prompt_tokens")]
    near = min(rows, key=lambda row: abs(row["step"] - (wanted.step or 0)), default=None)
    prompt = near["prompt_tokens"] / near["groups"] if near else 0.0
    questions = 3 if other is not None else 2
    tokens = questions * (prompt + wanted.tokens + 1)
    prices = prices_of(config_of_run(run.folder), kind)
    cost = prices.cost(Tokens(prefill=tokens - questions, sample=questions))
    return Asked(questions, tokens, cost, kind)


def _scoring(request: Request) -> Scoring:
    found = request.app.state.scoring
    assert isinstance(found, Scoring)
    return found


def _file(place: Place, key: str) -> Path:
    return place.state_dir / "tokens" / f"{key}.json"


def _here(name: str, wanted: Wanted) -> str:
    if wanted.evaluation is not None:
        asked = {"evaluation": wanted.evaluation, "problem": wanted.problem}
        return address("runs", name, "tokens", **asked)
    place = {"step": wanted.step, "group": wanted.group, "sample": wanted.sample}
    return address("runs", name, "tokens", **place)


def _back(name: str, wanted: Wanted) -> str:
    """The page of what the response is a part of."""
    if wanted.evaluation is not None:
        return address("runs", name, "evaluations", wanted.evaluation)
    return address("runs", name, "group", step=wanted.step, group=wanted.group)
