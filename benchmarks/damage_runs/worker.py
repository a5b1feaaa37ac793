"""Damages runs and says what came of it: a line of JSON on stdout for each line on stdin."""

import contextlib
import io
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from damage_runs import life, material
from damage_runs.damages import Damage, draw
from damage_runs.judge import Contents, Reference, contents, key_of
from damage_runs.material import Scenario
from visual_r1.data.dataset import open_dataset
from visual_r1.data.problem import SPLITS
from visual_r1.errors import VisualR1Error

REFERENCES = 3
PROBED = 4
"""The step whose checkpoint is evaluated once more."""
# What the first reader of a dataset is: all that is in it. The others read what they need.
OF_DATASETS = ("manifest", "train shard", "validation shard", "test shard", "rejected rows")
# Of the ended run these are read by an evaluation of one of its checkpoints.
OF_EVALUATIONS = ("sampler weights", "sampler record", "test shard", "manifest", "ledger")


@dataclass
class Case:
    """One damage, and what became of it."""

    seed: int
    scenario: Scenario
    kind: str
    how: str
    file: str
    what: str
    outcome: str = ""
    reader: str = ""
    said: list[str] = field(default_factory=list)
    differing: dict[str, list[str]] = field(default_factory=dict)
    verified: list[str] | None = None
    seconds: float = 0.0


SILENT, TRACEBACK = "USED IN SILENCE", "TRACEBACK"
SAID, HARMLESS, UNREAD = "found and said", "harmless", "not read"


class Worker:
    """Tries damages in the folder `into`, which has the undamaged runs."""

    def __init__(self, into: Path) -> None:
        self.into = into
        self._references: dict[str, Reference] = {}

    def try_one(self, seed: int, kind: str = "", how: str = "", scenario: str = "") -> Case:
        """Damage a copy of a run and let its readers at it; the worst of what they make of it."""
        rng = random.Random(f"damage {seed}")
        chosen: Scenario = rng.choice(("killed", "ended"))
        place = material.lay_out(self.into, scenario or chosen)
        damage = draw(place, rng, kind, how)
        names = [str(path.relative_to(place)) for path in damage.files]
        case = Case(seed, scenario or chosen, damage.kind, damage.how, names[0], damage.what)
        began = time.monotonic()
        if case.scenario == "ended":
            found = self._safely(case, lambda: life.verify(place / "runs" / material.NAME))
            case.verified = None if found is None else list(found)
        for name, reader in self._readers(case):
            if not self._let_read(case, name, reader, place, damage):
                break
        case.outcome = case.outcome or HARMLESS
        case.seconds = round(time.monotonic() - began, 2)
        return case

    def _readers(self, case: Case) -> list[tuple[str, Callable[[Path], Contents]]]:
        readers: list[tuple[str, Callable[[Path], Contents]]] = []
        if case.kind in OF_DATASETS:
            readers.append(("open", opened))
        if case.scenario == "killed":
            readers.append(("resume", resumed))
        else:
            readers.append(("again", trained_again))
            if case.kind in OF_EVALUATIONS:
                readers.append(("evaluate", evaluated))
        return readers

    def reference(self, scenario: Scenario, name: str) -> Reference:
        """What the reader makes of the undamaged run."""
        key = f"{scenario}-{name}"
        file = self.into / f"{key}.reference.json"
        if key not in self._references and file.exists():
            self._references[key] = Reference.from_json(json.loads(file.read_text()))
        if key not in self._references:
            runs: list[Contents] = []
            for _ in range(REFERENCES):
                place = material.lay_out(self.into, scenario)
                life.pause(1.1)
                if name == "evaluate":  # the command before it has its own reader
                    trained_again(place)
                runs.append(READERS[name](place))
            self._references[key] = made = Reference(runs)
            file.write_text(json.dumps(made.to_json()))
        return self._references[key]

    def _let_read(
        self,
        case: Case,
        name: str,
        reader: Callable[[Path], Contents],
        place: Path,
        damage: Damage,
    ) -> bool:
        """Whether the next reader may try too."""
        damaged = [path.read_bytes() if path.exists() else None for path in damage.files]
        before = len(case.said)
        found = self._safely(case, lambda: reader(place))
        if case.outcome == TRACEBACK or found is None:
            case.reader = name
            return False
        differing = self.reference(case.scenario, name).differing(found)
        now = [path.read_bytes() if path.exists() else None for path in damage.files]
        keys = {key_of(place, path) for path in damage.files}
        untouched = now == damaged and set(differing) <= keys
        if len(case.said) > before:
            case.outcome, case.reader = SAID, name
        elif untouched and case.outcome != SAID:
            case.outcome, case.reader = UNREAD, name
        elif differing and case.outcome != SAID:
            case.outcome, case.reader = SILENT, name
            case.differing = {file: places[:5] for file, places in differing.items()}
            return False
        return True

    def _safely(self, case: Case, work: Callable[[], Any]) -> Any:
        """The result of `work`; None where it failed, and `case` then says how."""
        with life.listening() as heard, contextlib.redirect_stdout(io.StringIO()):
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    found = work()
            except VisualR1Error as error:
                case.outcome = SAID
                sentence = str(error)
                if "\n" in sentence or "Traceback" in sentence:
                    case.outcome = TRACEBACK
                case.said.append(f"{type(error).__name__}: {sentence}")
                found = None
            except BaseException as error:  # noqa: BLE001  that is what is looked for
                case.outcome = TRACEBACK
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}, line {last.lineno}"
                case.said.append(f"{type(error).__name__}: {error} ({where})"[:500])
                found = None
            if life.raw_failures:
                case.outcome = TRACEBACK
                case.said += [f"in the engine: {one}"[:500] for one in life.raw_failures]
            case.said += heard.said
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


def resumed(place: Path) -> Contents:
    """The killed run, by its folder."""
    life.resume(place / "runs" / material.NAME)
    return contents(place)


def trained_again(place: Path) -> Contents:
    """The ended run, by its command."""
    life.train(material.config(place))
    return contents(place)


def evaluated(place: Path) -> Contents:
    """A checkpoint of the ended run that is not its last."""
    life.evaluate(material.config(place), PROBED, "probe")
    folder = "evaluations/probe"
    return {name: leaves for name, leaves in contents(place).items() if folder in name}


READERS = {
    "open": opened,
    "resume": resumed,
    "again": trained_again,
    "evaluate": evaluated,
}


def main(into: Path) -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    material.make(into)
    worker = Worker(into)
    for scenario, names in (
        ("killed", ("open", "resume")),
        ("ended", ("open", "again", "evaluate")),
    ):
        for name in names:
            worker.reference(scenario, name)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        case = worker.try_one(**json.loads(line))
        answers.write(json.dumps(asdict(case)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
