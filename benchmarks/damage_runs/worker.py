"""Damages runs and says what came of it: a line of JSON on stdout for each line on stdin."""

import contextlib
import io
import json
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from damage_runs import life, material
from damage_runs.damages import Damage, draw
from damage_runs.judge import Contents, Reference, contents, key_of
from damage_runs.material import Scenario
from visual_r1.data.dataset import open_dataset
from visual_r1.data.problem import SPLITS
from visual_r1.errors import VisualR1Error

REFERENCES = 3
# What the first reader of a dataset is: all that is in it. The others read what they need.
OF_DATASETS = ("manifest", "train shard", "validation shard", "test shard", "rejected rows")
# Of an ended run, who samples from a checkpoint reads these, and who goes on from one those.
OF_SAMPLERS = ("sampler weights", "sampler record")
OF_STATES = ("state", "state record", "curriculum")
_STEP = re.compile(r"step-0*([0-9]+)")
_NUMBERS = re.compile(r"[0-9a-f]{16,}|[0-9]+")

SILENT, TRACEBACK = "USED IN SILENCE", "TRACEBACK"
SAID, HARMLESS, UNREAD, VERIFIED = "found and said", "harmless", "not read", "found by verify"
# The worst first.
ORDER = (TRACEBACK, SILENT, SAID, HARMLESS, UNREAD)


@dataclass
class Case:
    """One damage, and what became of it; `reader` is who made the worst of it."""

    seed: int
    scenario: Scenario
    kind: str
    how: str
    file: str
    what: str
    outcome: str = UNREAD
    reader: str = ""
    said: list[str] = field(default_factory=list)
    differing: dict[str, list[str]] = field(default_factory=dict)
    verified: list[str] | None = None
    seconds: float = 0.0

    def note(self, outcome: str, reader: str) -> None:
        """Keep the worst."""
        if not self.reader or ORDER.index(outcome) < ORDER.index(self.outcome):
            self.outcome, self.reader = outcome, reader


class Worker:
    """Tries damages in the folder `into`, which has the undamaged runs."""

    def __init__(self, into: Path) -> None:
        self.into = into
        self._references: dict[str, tuple[Reference, set[str]]] = {}

    def try_one(self, seed: int, kind: str = "", how: str = "", scenario: str = "") -> Case:
        """Damage a copy of a run and let its readers at it; the worst of what they make of it."""
        case, place, damage = self._damaged(seed, kind, how, scenario)
        if missing := [one for one in _readers(case) if not self._known(case.scenario, one)]:
            for reader in missing:  # they are made in the same place
                self.reference(case.scenario, reader)
            case, place, damage = self._damaged(seed, kind, how, scenario)
        began = time.monotonic()
        found = _safely(case, "verify", lambda: life.verify(place / "runs" / material.NAME), set())
        case.verified = None if found is None else list(found)
        for reader in _readers(case):
            # Who opens a dataset tells; the command that follows is to mend it.
            if not self._let_read(case, reader, place, damage) and reader != "open":
                break
        if case.outcome == UNREAD and case.verified:
            case.outcome, case.reader = VERIFIED, "verify"
        case.seconds = round(time.monotonic() - began, 2)
        return case

    def _damaged(self, seed: int, kind: str, how: str, scenario: str) -> tuple[Case, Path, Damage]:
        """A fresh copy with the damage that the seed stands for."""
        rng = random.Random(f"damage {seed}")
        drawn: Scenario = rng.choice(("killed", "ended"))
        chosen = cast("Scenario", scenario or drawn)
        place = material.lay_out(self.into, chosen)
        damage = draw(place, rng, kind, how)
        name = str(damage.files[0].relative_to(place))
        return Case(seed, chosen, damage.kind, damage.how, name, damage.what), place, damage

    def _known(self, scenario: Scenario, reader: str) -> bool:
        return f"{scenario}-{reader}" in self._references

    def reference(self, scenario: Scenario, reader: str) -> tuple[Reference, set[str]]:
        """What the reader makes of the undamaged run, and what is said meanwhile."""
        key = f"{scenario}-{reader}"
        file = self.into / f"{key}.reference.json"
        if key not in self._references and file.exists():
            stored = json.loads(file.read_text())
            self._references[key] = Reference.from_json(stored["contents"]), set(stored["said"])
        if key not in self._references:
            runs: list[Contents] = []
            said: set[str] = set()
            for _ in range(REFERENCES):
                place = material.lay_out(self.into, scenario)
                life.pause(1.1)
                with life.listening() as heard:
                    runs.append(read_by(reader, place))
                said |= {_NUMBERS.sub("#", line) for line in heard.said}
            self._references[key] = Reference(runs), said
            stored = {"contents": self._references[key][0].to_json(), "said": sorted(said)}
            written = file.with_suffix(f".{os.getpid()}")
            written.write_text(json.dumps(stored))
            written.replace(file)
        return self._references[key]

    def _let_read(self, case: Case, reader: str, place: Path, damage: Damage) -> bool:
        """Whether the next reader may try too."""
        reference, usual = self.reference(case.scenario, reader)
        damaged = [path.read_bytes() if path.exists() else None for path in damage.files]
        before = len(case.said)
        found = _safely(case, reader, lambda: read_by(reader, place), usual)
        if found is None:
            return False
        differing = reference.differing(found)
        now = [path.read_bytes() if path.exists() else None for path in damage.files]
        # What lies there as it was put there: nobody has made anything of it.
        left = {
            key_of(place, path)
            for path, then, there in zip(damage.files, damaged, now, strict=True)
            if then == there
        }
        used = {file: places for file, places in differing.items() if file not in left}
        if len(case.said) > before:
            case.note(SAID, reader)
        elif used:
            case.note(SILENT, reader)
            case.differing = {file: places[:5] for file, places in used.items()}
            return False
        elif now == damaged:
            case.note(UNREAD, reader)
        else:
            case.note(HARMLESS, reader)
        return True


def _readers(case: Case) -> list[str]:
    readers = ["open"] if case.kind in OF_DATASETS else []
    if case.scenario == "killed":
        return [*readers, "resume"]
    step = _STEP.search(case.file)
    if step and case.kind in OF_STATES:
        return [*readers, "again", f"from {step[1]}"]
    if step and case.kind in OF_SAMPLERS:
        return [*readers, "again", f"evaluate {step[1]}"]
    return [*readers, "again"]


def _safely(case: Case, reader: str, work: Callable[[], Any], usual: set[str]) -> Any:
    """The result of `work`; None where it failed, and `case` then says how."""
    found = None
    with life.listening() as heard, contextlib.redirect_stdout(io.StringIO()):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = work()
        except VisualR1Error as error:
            sentence = str(error)
            whole = "\n" not in sentence and "Traceback" not in sentence
            case.note(SAID if whole else TRACEBACK, reader)
            case.said.append(f"{type(error).__name__}: {sentence}")
        except BaseException as error:  # noqa: BLE001  that is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            case.note(TRACEBACK, reader)
            case.said.append(f"{type(error).__name__}: {error} ({where})"[:500])
        if life.raw_failures:
            case.note(TRACEBACK, reader)
            case.said += [f"in the engine: {one}"[:500] for one in life.raw_failures]
    # An alarm is about the training, which may only have been done once more.
    told = [line for line in heard.said if not line.startswith("Alarm ")]
    case.said += [line for line in told if _NUMBERS.sub("#", line) not in usual]
    return found


def opened(place: Path) -> Contents:
    """All problems of the dataset."""
    found: Contents = {}
    for folder in sorted((place / "data").iterdir()):
        if not folder.is_dir():
            continue
        dataset = open_dataset(folder)
        for split in SPLITS:
            rows = list(dataset.problems(split))
            found[split] = {str(number): repr(row) for number, row in enumerate(rows)}
    return found


def read_by(reader: str, place: Path) -> Contents:
    """What is there when the reader, and what it needs, is done."""
    run, config = place / "runs" / material.NAME, material.config(place)
    name, _, step = reader.partition(" ")
    match name:
        case "open":
            return opened(place)
        case "resume":
            life.resume(run)
        case "again":
            life.train(config)
        case "from":
            life.train(material.going_on(config, int(step)))
        case _:
            life.evaluate(config, int(step), "probe")
    return contents(place)


def main(into: Path) -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    material.make(into)
    worker = Worker(into)
    first: tuple[tuple[Scenario, str], ...] = (("killed", "resume"), ("ended", "again"))
    for scenario, reader in first:
        worker.reference(scenario, reader)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        case = worker.try_one(**json.loads(line))
        answers.write(json.dumps(asdict(case)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
