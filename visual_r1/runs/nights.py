"""A run that is started again and again: `night-{date}`, `night-{n}`, and so many steps more.

Which run a start means is settled here, once, and kept in the run's folder: `.starts.json` says
who started it and how far that start goes. A start that was killed is gone on with before anything
new is begun, also after midnight and by another start; the same start, tried again when it is done,
finds its own run and does not train anew.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from visual_r1.config import RunConfig
from visual_r1.errors import RunError, StorageError
from visual_r1.printing import open_logger
from visual_r1.runs.budget import read_budget_end
from visual_r1.runs.config_file import read_config
from visual_r1.runs.ledger import Ledger
from visual_r1.storage import read_if_sound, read_json, write_json

logger = open_logger(__name__)

STARTS = ".starts.json"
_SUMMARY = "summary.json"

_claims: dict[Path, FileLock] = {}
"""The runs that this process has begun or gone on with: nobody else takes them for abandoned."""


@dataclass(frozen=True, slots=True)
class Start:
    """Who started a run (a flow run's id; None: a command), at which step, for how many more."""

    who: str | None
    step: int
    more: int | None

    @property
    def goal(self) -> int:
        """The step it ends at; 0 where it has no goal of its own."""
        return 0 if self.more is None else self.step + self.more


@dataclass(frozen=True, slots=True)
class _Starts:
    starts: list[Start]


@dataclass(frozen=True, slots=True)
class _Summary:
    """All that is asked of a run's summary, which a run writes last."""

    steps: int


_STARTS, _SUMMARIES = TypeAdapter(_Starts), TypeAdapter(_Summary)


def begun(config: RunConfig, who: str | None = None, when: datetime | None = None) -> RunConfig:
    """`config` with the name of one run and its number of steps, where they are to be filled in.

    `who` is the start, the same when it is tried again, and `when` its time, now by default. Two
    at once get two runs. Raises `StorageError` where the folder of runs cannot be written.
    """
    is_named, more = _is_pattern(config.run.name), config.train.more_steps
    if not is_named and more is None:
        return config
    with _only_one(config.output_dir / "runs"):
        if is_named:
            name = _name_of_start(config, who, when or datetime.now(UTC))
            config = config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
        run_dir = config.run_dir
        run_dir.mkdir(exist_ok=True)
        if is_named:
            _claim(run_dir)
        starts = _starts(run_dir)
        start = _start_of(run_dir, starts, who, more)
        if start not in starts:
            write_json(run_dir / STARTS, asdict(_Starts([*starts, start])))
    if more is None:
        return config
    # Tried again after later starts, it has nothing left to do.
    steps = {"steps": max(start.goal, _newest_step(config.run_dir)), "more_steps": None}
    return config.model_copy(update={"train": config.train.model_copy(update=steps)})


def newest_of_its_name(config: RunConfig) -> RunConfig:
    """`config` with the name of the newest run that its pattern means, for looking at that run.

    Raises `RunError` where there is none.
    """
    if not _is_pattern(config.run.name):
        return config
    found = _runs(config)
    if not found:
        raise RunError(
            f"There is no run named {config.run.name} in {config.output_dir / 'runs'} yet: train "
            "one, or name another in run.name."
        )
    run = config.run.model_copy(update={"name": found[-1].name})
    return config.model_copy(update={"run": run})


def _is_pattern(name: str | None) -> bool:
    return name is not None and ("{date}" in name or "{n}" in name)


@contextmanager
def _only_one(runs: Path) -> Generator[None]:
    """One process at a time names a run; it takes milliseconds."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with FileLock(runs / ".names.lock"):
            yield
    except OSError as error:
        raise StorageError(
            f"could not make a run's folder in {runs}: {error.strerror or error}. "
            "Choose another place with --output-dir."
        ) from error


def _name_of_start(config: RunConfig, who: str | None, when: datetime) -> str:
    there = _runs(config)
    for folder in reversed(there):
        if who is not None and any(start.who == who for start in _starts(folder)):
            return folder.name
    for folder in reversed(there):
        if _is_unfinished(folder, config) and not _is_in_use(folder):
            logger.warning(
                "Going on with %s, which is not finished (it has %d steps). Where it never will "
                "be, give its folder %s another name: then the next start begins a new run.",
                *(folder.name, _newest_step(folder), folder),
            )
            return folder.name
    day = when.astimezone(UTC).date().isoformat()
    assert config.run.name is not None
    of_the_day = config.run.name.replace("{date}", day)
    taken = [int(found["n"]) for found in _matches(of_the_day, there) if "n" in found.groupdict()]
    return of_the_day.replace("{n}", str(max(taken, default=0) + 1))


def _runs(config: RunConfig) -> list[Path]:
    """The folders whose names the pattern has, the newest last."""
    runs = config.output_dir / "runs"
    folders = [one for one in runs.iterdir() if one.is_dir()] if runs.is_dir() else []
    found = _matches(config.run.name or "", folders)

    def age(one: re.Match[str]) -> tuple[str, int]:
        parts = one.groupdict()
        return parts.get("date", ""), int(parts.get("n", 0))

    return [runs / one.string for one in sorted(found, key=age)]


def _matches(pattern: str, folders: list[Path]) -> list[re.Match[str]]:
    parts = {"{date}": r"(?P<date>\d{4}-\d\d-\d\d)", "{n}": r"(?P<n>\d{1,9})"}
    seen: set[str] = set()
    regex = ""
    for text in re.split(r"({date}|{n})", pattern):
        again = f"(?P={text[1:-1]})" if text in seen else parts.get(text)
        regex += again if text in parts and again else re.escape(text)
        seen.add(text)
    return [found for one in folders if (found := re.fullmatch(regex, one.name))]


def _is_unfinished(folder: Path, config: RunConfig) -> bool:
    """Whether it is a run of this configuration that has something left to do."""
    try:
        stored = read_config(folder)
    except RunError:  # it is damaged; whoever goes on with it by its name is told
        return False
    if stored is None:  # killed before it wrote anything, or another is about to
        return (folder / STARTS).exists()
    if stored.identity() != config.identity():
        return False
    goal = max([start.goal for start in _starts(folder)[-1:]] + [0]) or stored.train.steps
    return not _has_done(folder, goal, config)


def _has_done(run_dir: Path, goal: int, config: RunConfig | None = None) -> bool:
    """Whether the run's summary is there, of so many steps; or of all that the budget of `config`
    allows."""
    try:
        steps = read_json(run_dir / _SUMMARY, _SUMMARIES).steps
    except (OSError, ValueError):
        return False
    end = read_budget_end(run_dir, steps)
    return steps >= goal or (config is not None and end is not None and end.is_of(config))


def _is_in_use(folder: Path) -> bool:
    """Whether another process works on the run, or has just taken it."""
    # First whether it was taken: who tries a run's own lock may be in the way of its owner.
    for name in (".claim", ".lock"):
        if name == ".claim" and folder.absolute() in _claims:
            continue
        lock = FileLock(folder / name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
    return False


def _claim(run_dir: Path) -> None:
    """Hold it until the process ends: between this and the run's own lock nobody takes it."""
    run_dir = run_dir.absolute()
    if run_dir not in _claims:
        lock = FileLock(run_dir / ".claim")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return  # the run's own lock says so in a moment
        _claims[run_dir] = lock


def _start_of(run_dir: Path, starts: list[Start], who: str | None, more: int | None) -> Start:
    """The start that this one is, or goes on with; else a new one, from where the run is."""
    for start in starts:
        if who is not None and (start.who, start.more) == (who, more):
            return start
    last = starts[-1] if more is not None and starts else None
    if last is not None and last.more == more and not _has_done(run_dir, last.goal):
        return Start(who, last.step, more)
    return Start(who, _newest_step(run_dir), more)


def _newest_step(run_dir: Path) -> int:
    rows = Ledger(run_dir).read().sound  # another process may be writing it: nothing is mended
    return rows[-1].row.step if rows else 0


def _starts(run_dir: Path) -> list[Start]:
    read = read_if_sound(run_dir / STARTS, _STARTS, "what it said of earlier starts is lost")
    return [] if read is None else read.starts
