"""Old runs by new code: what an older commit began goes on, and ends, bit for bit.

    python benchmarks/old_runs.py make --at c484f86 --into DIR    # by that commit's code
    python benchmarks/old_runs.py check DIR                       # by the code beside this file
    python benchmarks/old_runs.py check DIR --anew                # also from the beginning

`make` keeps two runs in three states: finished, killed in the middle of a chunk, and the reference:
the killed ones taken to their end. `check` goes on with copies of them and says what is not the
same; its exit status is then 1. Bits are the same on one machine with one torch, which is why this
is a script and no folder of files. Cache keys hold the place of a run: DIR stays where it is.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

# The folder `trials` stands beside this one.
sys.path.append(str(Path(__file__).parents[1]))

from run_states.contents import difference, left_by
from run_states.programs import (
    ROOT,
    RUNS,
    go_on,
    kill_in_second_chunk,
    names_by,
    resume,
    run,
    run_of,
    train,
    tree_of,
)

# What every start writes; all else in a finished run is work.
# The page is drawn again where the key of its stage has another form than in the old code.
WRITTEN_BY_A_START = {
    ".owner",
    ".lock",
    ".made_with.json",
    "config.json",
    "summary.json",
    "wall.json",
    "report.html",
}


class Check(NamedTuple):
    """One comparison; `differs` says where, and is empty where all is the same."""

    run: str
    what: str
    differs: str


@contextmanager
def at_place(folder: Path, state: str | None = None) -> Generator[Path]:
    """Where all runs are made and checked: a copy of what was kept in that state, or empty."""
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    if state is None:
        place.mkdir(parents=True)
    else:
        shutil.copytree(folder / state, place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def stamps(folder: Path) -> dict[str, list[int]]:
    """Time of writing and size of each file that a start does not write anyway."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(path.relative_to(folder)): [stat.st_mtime_ns, stat.st_size]
        for path, stat in found.items()
        if path.name not in WRITTEN_BY_A_START
    }


def work(folder: Path) -> dict[str, dict[str, list[int]]]:
    """Stamps of all that a run spent time on; the names of results are Prefect's cache keys."""
    place = folder.parents[1]
    weights = stamps(place / ".visual-r1/engine")
    return {
        "files": stamps(folder),
        "files of data/": stamps(place / "data"),
        "checkpoints": {name: weights[name] for name in weights if name.endswith(".safetensors")},
        "cache keys": stamps(place / ".visual-r1/results"),
    }


def compared(name: str, old: Mapping[str, Any], folder: Path) -> Iterator[Check]:
    """What the run in the folder left, thing by thing, against what it should have."""
    new = left_by(folder)
    for what in sorted({*old, *new}):
        yield Check(name, what, difference(old.get(what), new.get(what)))


def check_finished(place: Path, preset: str, old: Mapping[str, Any]) -> Iterator[Check]:
    """The same command makes nothing anew, and the last chunk gives the same bits again."""
    name, folder = f"{preset}, finished", run_of(place, preset)
    before, summary = work(folder), (folder / "summary.json").read_text()
    yield Check(name, "the same command again", run(ROOT, place, *train(ROOT, preset)))
    after = work(folder)
    for what, found in before.items():
        now = after[what]
        if what == "cache keys":
            # A stage under another key finds itself done by its files, and is then written down.
            now = {key: now.get(key) for key in found}
        yield Check(name, f"{len(found)} {what} untouched", difference(found, now))
    again = (folder / "summary.json").read_text()
    yield Check(name, "summary.json, to the byte", difference(summary, again))
    yield Check(name, "visual-r1 resume --prove", run(ROOT, place, *resume(folder, "--prove")))
    yield from compared(name, old, folder)


def check_killed(place: Path, preset: str, old: Mapping[str, Any]) -> Iterator[Check]:
    """It goes on to where the old code came, and finds finished what was."""
    name, folder = f"{preset}, killed", run_of(place, preset)
    keys = work(folder)["cache keys"]
    yield Check(name, "goes on to its end", go_on(ROOT, place, preset))
    now = work(folder)["cache keys"]
    kept = {key: now.get(key) for key in keys}
    yield Check(name, f"{len(keys)} cache keys untouched", difference(keys, kept))
    yield from compared(name, old, folder)


def check_anew(place: Path, preset: str, old: Mapping[str, Any]) -> Iterator[Check]:
    """From the beginning it comes to the same."""
    name, wrong = f"{preset}, anew", run(ROOT, place, *train(ROOT, preset))
    yield Check(name, "runs to its end", wrong)
    if not wrong:
        yield from compared(name, old, run_of(place, preset))


def make(commit: str, into: Path) -> Iterator[Check]:
    """The runs, and `expected.json` with all that they left, by the code of `commit`."""
    if into.exists() and any(into.iterdir()):
        sys.exit(f"{into} is not empty: remove it, or choose another folder.")
    with tree_of(commit) as tree:
        expected = {"place": str(into), "torch": version("torch"), "names": names_by(tree)}
        with at_place(into) as place:
            require_done(run(tree, place, *train(tree, preset)) for preset in RUNS)
            shutil.copytree(place, into / "finished")
        with at_place(into) as place:
            for preset in RUNS:
                kill_in_second_chunk(tree, place, preset)
            shutil.copytree(place, into / "killed")
            require_done(go_on(tree, place, preset) for preset in RUNS)
            shutil.copytree(place, into / "reference")
    for state in ("finished", "reference"):
        expected[state] = {preset: left_by(run_of(into / state, preset)) for preset in RUNS}
    (into / "expected.json").write_text(json.dumps(expected))
    for preset in RUNS:
        undisturbed, killed = (expected[state][preset] for state in ("finished", "reference"))
        # `resume` writes the run's name into its configuration.
        same = difference(undisturbed, killed | {"config.json": undisturbed["config.json"]})
        yield Check(preset, "killed or not, the same end", same)


def require_done(ends: Iterable[str]) -> None:
    """Run after run; the first that fails is the end."""
    for wrong in ends:
        if wrong:
            sys.exit(wrong)


def check(folder: Path, anew: bool) -> Iterator[Check]:
    """All comparisons, each as it is made."""
    expected = json.loads((folder / "expected.json").read_text())
    for what, now in (("place", str(folder)), ("torch", version("torch"))):
        if expected[what] != now:
            sys.exit(f"They were made with the {what} {expected[what]}, not {now}: make them anew.")
    for text, found in names_by(ROOT).items():
        yield Check("names", text, difference(expected["names"].get(text), found))
    ways = [("finished", check_finished, "finished"), ("killed", check_killed, "reference")]
    for state, way, end in [*ways, (None, check_anew, "finished")][: 2 + anew]:
        with at_place(folder, state) as place:
            for preset in RUNS:
                yield from way(place, preset, expected[end][preset])
            made = sorted(path.name for path in (place / "runs").iterdir())
            kept = sorted(path.name for path in (folder / end / "runs").iterdir())
            yield Check(state or "anew", "names of the runs", difference(kept, made))


def show(checks: Iterable[Check]) -> int:
    """Print each as it comes; how many differ."""
    differing = 0
    for one in checks:
        differing += bool(one.differs)
        print(f"{one.run:20}  {one.what:62}  {one.differs or 'the same'}", flush=True)
    print(f"{differing} differ." if differing else "All the same.")
    return differing


def main() -> int:
    """Make or check; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    making, checking = commands.add_parser("make"), commands.add_parser("check")
    making.add_argument("--at", required=True, metavar="COMMIT")
    making.add_argument("--into", required=True, type=Path, metavar="DIR")
    checking.add_argument("folder", type=Path, metavar="DIR")
    checking.add_argument("--anew", action="store_true", help="also train from the beginning")
    chosen = parser.parse_args()
    if chosen.command == "make":
        return 1 if show(make(chosen.at, chosen.into.absolute())) else 0
    return 1 if show(check(chosen.folder.absolute(), chosen.anew)) else 0


if __name__ == "__main__":
    sys.exit(main())
