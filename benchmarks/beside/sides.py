"""Two programs side by side on one piece of work."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from beside.environments import PEERS, outside
from beside.faults import BenchmarkError
from beside.results import Measured, Ratio, Results
from beside.rounds import Told, in_turn
from beside.shapes import SHAPES, save
from beside.watched import keep_log
from beside.work import Work

Facts = dict[str, object]
Check = Callable[[Facts, Facts], float]
"""Compares what both sides said when they were ready."""

SAME_WITHIN = 1e-4

OURS = Path(__file__).with_name("ours.py")


def side_by_side(
    results: Results,
    case: str,
    work: Work,
    peer: tuple[str, str, str],
    unit: str,
    rounds: int,
    check: Check,
) -> float:
    """Measure `work` on both sides in turn, once `check` has compared them; what it found.

    `peer` is its name in tables, its interpreter and its program. A round's `unit` (tokens,
    sequences) is what both count. Raises `BenchmarkError` where a side fails, or where they do not
    do the same.
    """
    name, python, program = peer
    with TemporaryDirectory() as folder, ExitStack() as open_programs:
        file = str(work.write(Path(folder) / "work.json"))
        ours = open_programs.enter_context(
            Told("ours", [sys.executable, str(OURS), file], as_now(), Path(folder) / "ours.log")
        )
        ours.facts()  # One loads after the other: memory and cores are not shared out meanwhile.
        theirs = open_programs.enter_context(
            Told(name, [python, str(PEERS / program), file], outside(), Path(folder) / "peer.log")
        )
        try:
            found = check(ours.facts(), theirs.facts())
            taken = in_turn([ours, theirs], rounds)
        except BenchmarkError as error:
            (kept,) = {keep_log(log).parent for log in Path(folder).glob("*.log")}
            raise BenchmarkError(str(error).replace(folder, str(kept))) from error
        measured = [Measured.of(case, who, unit, taken[who]) for who in taken]
        results.measured += measured
        results.ratios[f"{case}: ours / {name}"] = Ratio.of(*measured)
        return found


def as_now() -> dict[str, str]:
    """This environment for our own programs: idle threads sleep, as the engine's do."""
    return os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "TINKER_TELEMETRY": "0"}


def random_model(shape: str, folder: Path, device: str = "cpu") -> str:
    """A folder with a model of the shape, in float32; made where it is not there yet."""
    place = folder / shape
    if not (place / "config.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        save(SHAPES[shape], place, device)
    return str(place)


def same_greedy(ours: Facts, theirs: Facts) -> float:
    """The share of tokens that both sides chose greedily; 1 where one of them was not asked.

    Raises `BenchmarkError` where they plainly do not do the same work.
    """
    if not ours["greedy"] or not theirs["greedy"]:
        return 1.0
    pairs = [
        (a, b)
        for mine, other in zip(ours["greedy"], theirs["greedy"], strict=True)  # type: ignore[call-overload]
        for a, b in zip(mine, other, strict=True)
    ]
    share = sum(a == b for a, b in pairs) / len(pairs)
    if share < 0.5:
        raise BenchmarkError(
            f"the two sides agree on {share:.0%} of their greedy tokens: they do not do the same "
            "work, so that no ratio of theirs means anything."
        )
    return share


def same_logprob(ours: Facts, theirs: Facts) -> float:
    """How far apart the sums of the answers' log-probabilities are, as a share of them.

    Raises `BenchmarkError` where that is more than `SAME_WITHIN`.
    """
    mine, other = float(str(ours["answers_logprob"])), float(str(theirs["answers_logprob"]))
    apart = abs(mine - other) / abs(other)
    if not apart <= SAME_WITHIN:
        raise BenchmarkError(
            f"the two sides find {mine:.2f} and {other:.2f} for the same answers: they do not do "
            "the same work, so that no ratio of theirs means anything."
        )
    return apart


def dumped(arguments: object) -> dict[str, object]:
    """Parsed flags as what a JSON can hold."""
    return json.loads(json.dumps(vars(arguments), default=str))
