"""What is compared: an evaluation, by the name that a user gives it; several of one setting.

runs/quickstart-0a1b2c3d/evaluations/step-40   an evaluation's folder, wherever it lies
quickstart-0a1b2c3d, runs/quickstart-0a1b2c3d  a run: its final evaluation
quickstart-0a1b2c3d:baseline                   one of a run's evaluations by its name
quickstart-0a1b2c3d/baseline                   the same, as the pages' addresses have it
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from visual_r1.errors import RunError
from visual_r1.evaluation.metrics import Report, evaluation_folder, evaluation_names, read_report
from visual_r1.evaluation.predictions import REPORT_NAME
from visual_r1.hashing import digest
from visual_r1.report.page import PAGE_NAME
from visual_r1.report.summary import BASELINE, FINAL
from visual_r1.runs.config_file import read_config
from visual_r1.runs.named import find_run


@dataclass(frozen=True, slots=True)
class Side:
    """One evaluation. `label` names it among those that are compared."""

    label: str
    folder: Path
    report: Report

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run that it is of; None where it lies elsewhere."""
        folder = self.folder.absolute()
        return folder.parents[1] if folder.parent.name == "evaluations" else None

    @property
    def page(self) -> Path | None:
        """The report of its run, where there is one."""
        page = self.run_dir / PAGE_NAME if self.run_dir else None
        return page if page is not None and page.is_file() else None


@dataclass(frozen=True, slots=True)
class Seeds:
    """The evaluations of one setting, one a seed."""

    label: str
    sides: tuple[Side, ...]


def find_sides(named: Sequence[str], output_dir: Path = Path()) -> list[Side]:
    """The evaluations that `named` mean, labelled so that each can be told from the others.

    Of a single run its baseline and final. Raises `RunError` where there is no such run or
    evaluation, `DataError` where a report is damaged.
    """
    run_dir = _run_or_none(named[0], output_dir) if len(named) == 1 else None
    if run_dir is not None and not _is_evaluation(Path(named[0])):
        named = [f"{named[0]}:{BASELINE}", f"{named[0]}:{FINAL}"]
        folders = [_evaluation(run_dir, name) for name in (BASELINE, FINAL)]
    else:
        folders = [find_evaluation(one, output_dir) for one in named]
    sides = [Side(folder.name, folder, read_report(folder)) for folder in folders]
    if len({side.run_dir for side in sides}) > 1:
        sides = [replace(side, label=_of_its_run(side)) for side in sides]
    labels = [side.label for side in sides]
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        replace(side, label=f"{side.label} ({place})") if side.label in twice else side
        for place, side in enumerate(sides, start=1)
    ]


def find_evaluation(named: str, output_dir: Path = Path()) -> Path:
    """The folder of the evaluation that `named` means; raises `RunError` where there is none."""
    folder = Path(named).expanduser()
    if _is_evaluation(folder):
        return folder
    run, colon, name = named.rpartition(":")
    if colon and not folder.exists():
        return _evaluation(find_run(run, output_dir), name)
    try:
        return _evaluation(find_run(named, output_dir), FINAL)
    except RunError:
        run, _, name = named.rpartition("/")
        if not name or (run_dir := _run_or_none(run, output_dir)) is None:
            raise
    return _evaluation(run_dir, name)


def _run_or_none(named: str, output_dir: Path) -> Path | None:
    try:
        return find_run(named, output_dir)
    except RunError:
        return None


def _is_evaluation(folder: Path) -> bool:
    return (folder.expanduser() / REPORT_NAME).is_file()


def _evaluation(run_dir: Path, name: str) -> Path:
    folder = evaluation_folder(run_dir, name)
    if Path(name).name == name and _is_evaluation(folder):
        return folder
    there = [f"{run_dir.name}:{one}" for one in evaluation_names(run_dir)]
    rest = f"it has {', '.join(there)}" if there else "it has none that is complete"
    raise RunError(f"{run_dir} has no evaluation {name!r}: {rest}.")


def _of_its_run(side: Side) -> str:
    return f"{side.run_dir.name}:{side.label}" if side.run_dir else side.label


def by_setting(named: Sequence[str], output_dir: Path = Path()) -> list[Seeds]:
    """Groups of evaluations: `A1,A2,A3` is one; what stands alone goes with those whose run differs
    in train.seed alone and that have the same name in it.

    Raises as `find_sides`, and `RunError` where one is named twice.
    """
    given = [one.split(",") for one in named]
    found = find_sides([one for group in given for one in group], output_dir)
    if same := named_twice(found):
        raise RunError(
            f"{same[0].folder} is named twice, and an evaluation that is counted again is no "
            "further seed: name each once."
        )
    sides = iter(found)
    groups: dict[str, list[Side]] = {}
    for place, group in enumerate(given):
        for _ in group:
            side = next(sides)
            key = f"{place}" if len(group) > 1 else _setting(side)
            groups.setdefault(key, []).append(side)
    labelled = [Seeds(_label_of(group), tuple(group)) for group in groups.values()]
    names = [one.label for one in labelled]
    return [
        replace(one, label=" + ".join(side.label for side in one.sides))
        if names.count(one.label) > 1
        else one
        for one in labelled
    ]


def named_twice(sides: Sequence[Side]) -> list[Side]:
    """Those whose folder is that of one before them."""
    folders = [side.folder.resolve() for side in sides]
    return [side for place, side in enumerate(sides) if folders[place] in folders[:place]]


def _setting(side: Side) -> str:
    """The same for evaluations of runs that differ in nothing but train.seed: two templates of one
    name are two settings."""
    config = read_config(side.run_dir) if side.run_dir else None
    if config is None:
        return str(side.folder.absolute())
    train = {name: value for name, value in config.identity()["train"].items() if name != "seed"}
    said = side.report.conditions.template_digest
    return digest([config.identity() | {"train": train}, side.folder.name, said], 32)


def _label_of(group: Sequence[Side]) -> str:
    more = len(group) - 1
    rest = f" and {more} more seed{'s' if more > 1 else ''}" if more else ""
    return f"{group[0].label}{rest}"
