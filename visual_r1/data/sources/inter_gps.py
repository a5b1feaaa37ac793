"""The original layout of Geometry3K (Inter-GPS): a folder a problem, under train, val and test.

    train/17/data.json          {"annotat_text": "Find $x$.", "choices": ["30", "45", ...],
                                 "answer": "D", "id": 17, "problem_type_graph": ["Triangle"], ...}
    train/17/img_diagram.png
    train/17/logic_form.json    {"diagram_logic_form": ["Equals(LengthOf(Line(A, B)), 13)", ...]}

The problem is `annotat_text` with the figure in front, the answer the text of the chosen choice;
the choices are kept and not shown. The logic form, where there is one, is what its annotators saw
in the figure: `meta.facts`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, cast

from visual_r1.config import DataSection
from visual_r1.data.problem import IMAGE_MARKER, Split
from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.columns import choices_of, plain, text_of
from visual_r1.data.sources.images_of_rows import BadColumn, ImageFiles
from visual_r1.data.sources.source import (
    SplitNames,
    Wanted,
    contents_digest,
    every,
    printable,
    require_unused,
)
from visual_r1.errors import DataError
from visual_r1.opening import read_file

DATA, FIGURE, LOGIC = "data.json", "img_diagram.png", "logic_form.json"
_KEPT = ("problem_type_graph", "problem_type_goal", "unit")
# The name of a circle's radius in `Circle(P, radius_5_0)`: not a number of the figure.
_RADIUS = re.compile(r",\s*radius_\w+")


class InterGPSSource:
    """A folder in the Inter-GPS layout, with or without folders for the splits."""

    def __init__(self, folder: Path, data: DataSection) -> None:
        require_unused(data, "the Inter-GPS layout", "subset", "columns")
        self._folder = folder
        self._show_choices = data.show_choices
        splits = SplitNames(data.splits)
        self._problems = _problem_folders(folder, splits)
        self.resorted = splits.within
        self.slug = folder.resolve().name

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder has the layout: at least one problem with its data.json in it."""
        inside = _folders(folder).values()
        return any((problem / DATA).exists() for problems in inside for problem in problems)

    @property
    def fingerprint(self) -> str:
        """A digest of the problems' texts, figures and logic forms."""
        return self._digest(DATA, FIGURE, LOGIC)

    @property
    def former(self) -> str:
        """A digest without the logic forms."""
        return self._digest(DATA, FIGURE)

    def _digest(self, *names: str) -> str:
        files = [
            folder / name
            for folders in self._problems.values()
            for folder in folders
            for name in names
            if (folder / name).is_file()
        ]
        return contents_digest(self._folder, files)

    def sizes(self) -> Mapping[Split, int]:
        return {split: len(folders) for split, folders in self._problems.items()}

    def rows(self, split: Split, start: int = 0, wanted: Wanted = every) -> Iterator[SourceRow]:
        for number in filter(wanted, range(start, len(self._problems[split]))):
            folder = self._problems[split][number]
            row = _row(folder, printable(folder.relative_to(self._folder).as_posix()))
            yield replace(row, show_choices=self._show_choices)

    def ids(self, split: Split) -> Iterator[str]:
        return (_row(folder, "", figure=False).id for folder in self._problems[split])


def _folders(root: Path) -> dict[Path, list[Path]]:
    """The folders in `root`, each with its problem folders; a problem folder has itself."""
    try:
        return {
            folder: [folder]
            if _is_problem(folder)
            else [path for path in folder.iterdir() if path.is_dir() and _is_problem(path)]
            for folder in sorted(path for path in root.iterdir() if path.is_dir())
        }
    except OSError as error:
        raise DataError(f"the folder {root} cannot be read: {error.strerror}") from error


def _problem_folders(root: Path, splits: SplitNames) -> dict[Split, list[Path]]:
    """The problem folders by split, in the order of their numbers."""
    inside = _folders(root)
    names = {folder: [folder.name] for folder, problems in inside.items() if problems != [folder]}
    splits.require_all((name for (name,) in names.values()), str(root))
    parts = [(one.name, names.get(one, ())) for one, problems in inside.items() if problems]
    of_each = splits.splits_of(parts, str(root))
    found: dict[Split, list[Path]] = {}
    for split, problems in zip(of_each, filter(None, inside.values()), strict=True):
        if split is not None:
            found.setdefault(split, []).extend(problems)
    return {split: sorted(folders, key=_order) for split, folders in found.items()}


def _is_problem(folder: Path) -> bool:
    return (folder / DATA).exists() or (folder / FIGURE).exists()


def _order(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdecimal() else 0, folder.name)


def _row(folder: Path, place: str, *, figure: bool = True) -> SourceRow:
    try:
        data = _read_json(folder, DATA)
        choices = choices_of(data.get("choices"))
        named = _named(text_of(data.get("answer"), "answer"), choices)
        problem = text_of(data.get("annotat_text") or data.get("problem_text"), "problem")
        kinds = cast("list[object] | None", data.get("problem_type_graph"))
        facts = _facts(folder)
        family = str(kinds[0]).lower() if isinstance(kinds, list) and kinds else ""
        return SourceRow(
            place=place,
            id=text_of(data.get("id"), "id") or printable(folder.name),
            images=(_figure(folder),) if figure else (),
            problem=f"{IMAGE_MARKER}{problem}" if problem else None,
            answer=None if named is None else choices[named],
            answer_place=named,
            choices=choices,
            source="geometry3k",
            meta={
                **({"family": family} if family else {}),
                **{name: plain(data[name]) for name in _KEPT if data.get(name)},
                **({"facts": facts} if facts else {}),
            },
        )
    except BadColumn as error:
        return SourceRow(place, printable(folder.name), defect=str(error))


def _read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """What the file holds. Raises `BadColumn` where that is no object."""
    try:
        read: object = json.loads(read_file(folder / name).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadColumn(f"{name} is not UTF-8") from error
    except ValueError as error:
        raise BadColumn(f"{name} is not JSON: {error}") from error
    except RecursionError as error:
        raise BadColumn(f"{name} is nested too deeply") from error
    except OSError as error:
        raise BadColumn(f"{name} cannot be read: {error.strerror}") from error
    if not isinstance(read, dict):
        raise BadColumn(f"{name} holds no object")
    return cast("dict[str, Any]", read)


def _facts(folder: Path) -> list[str]:
    """The figure's logic form; none where nobody wrote one down."""
    if not (folder / LOGIC).exists():
        return []
    forms = _read_json(folder, LOGIC).get("diagram_logic_form")
    if not isinstance(forms, list):
        return []
    facts = [_RADIUS.sub("", str(form)) for form in cast("list[object]", forms)]
    return [fact for fact in facts if fact.strip()]


def _figure(folder: Path) -> bytes | None:
    try:
        return ImageFiles(folder, [folder]).read(FIGURE) if (folder / FIGURE).exists() else None
    except PermissionError as error:
        raise BadColumn(f"{FIGURE} cannot be read: {error.strerror}") from error


def _named(letter: str | None, choices: Sequence[str]) -> int | None:
    """The place of the choice that the letter names."""
    if letter is None:
        return None
    place = ascii_uppercase.find(letter.strip().upper()) if len(letter.strip()) == 1 else -1
    if not 0 <= place < len(choices):
        raise BadColumn(f"the answer {letter[:80]!r} names none of the {len(choices)} choices")
    return place
