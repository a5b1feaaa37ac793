"""The original layout of Geometry3K (Inter-GPS): a folder a problem, under train, val and test.

    train/17/data.json          {"annotat_text": "Find $x$.", "choices": ["30", "45", ...],
                                 "answer": "D", "id": 17, "problem_type_graph": ["Triangle"], ...}
    train/17/img_diagram.png

The problem is `annotat_text` with the figure in front, the answer the text of the chosen choice;
the choices are kept and not shown.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from visual_r1.data.problem import IMAGE_MARKER
from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.source import Split, contents_digest, split_of
from visual_r1.errors import DataError

DATA, FIGURE = "data.json", "img_diagram.png"
_KEPT = ("problem_type_graph", "problem_type_goal", "unit")


class InterGPSSource:
    """A folder in the Inter-GPS layout, with or without folders for the splits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._problems = _problem_folders(folder)
        self.slug = folder.resolve().name

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder has the layout: at least one problem folder in it."""
        return any(_problem_folders(folder).values())

    @property
    def fingerprint(self) -> str:
        """A digest of the problems' texts and figures."""
        files = (
            folder / name
            for folders in self._problems.values()
            for folder in folders
            for name in (DATA, FIGURE)
            if (folder / name).is_file()
        )
        return contents_digest(self._folder, files)

    def sizes(self) -> Mapping[Split, int]:
        return {split: len(folders) for split, folders in self._problems.items()}

    def rows(self, split: Split, start: int = 0) -> Iterator[SourceRow]:
        for folder in self._problems[split][start:]:
            yield _row(folder, folder.relative_to(self._folder).as_posix())


def _problem_folders(root: Path) -> dict[Split, list[Path]]:
    """The problem folders by split, in the order of their numbers."""
    found: dict[Split, list[Path]] = {}
    try:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            split = split_of(folder.name)
            inside = [path for path in folder.iterdir() if path.is_dir()] if split else [folder]
            problems = [path for path in inside if (path / DATA).is_file()]
            if problems:
                found.setdefault(split or "train", []).extend(problems)
    except OSError as error:
        raise DataError(f"the folder {root} cannot be read: {error.strerror}") from error
    return {split: sorted(folders, key=_order) for split, folders in found.items()}


def _order(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdecimal() else 0, folder.name)


def _row(folder: Path, place: str) -> SourceRow:
    try:
        text = (folder / DATA).read_text(encoding="utf-8")
        read: object = json.loads(text)
    except UnicodeDecodeError:
        return SourceRow(place, folder.name, defect=f"{DATA} is not UTF-8")
    except ValueError as error:
        return SourceRow(place, folder.name, defect=f"{DATA} is not JSON: {error}")
    except OSError as error:
        return SourceRow(place, folder.name, defect=f"{DATA} cannot be read: {error.strerror}")
    if not isinstance(read, dict):
        return SourceRow(place, folder.name, defect=f"{DATA} holds no object")
    data = cast("dict[str, Any]", read)
    try:
        figure: bytes | None = (folder / FIGURE).read_bytes()
    except OSError:
        figure = None
    raw_choices: object = data.get("choices")
    choices = cast("list[object]", raw_choices) if isinstance(raw_choices, list) else []
    texts = tuple(str(choice) for choice in choices)
    problem = data.get("annotat_text") or data.get("problem_text")
    graph: object = data.get("problem_type_graph")
    kinds = cast("list[object]", graph) if isinstance(graph, list) else []
    meta = {name: data[name] for name in _KEPT if data.get(name)}
    family = {"family": str(kinds[0]).lower()} if kinds else {}
    return SourceRow(
        place=place,
        id=str(data.get("id", folder.name)),
        images=(figure,),
        problem=f"{IMAGE_MARKER}{problem}" if isinstance(problem, str) and problem else None,
        answer=_answer(data.get("answer"), texts),
        choices=texts,
        source="geometry3k",
        meta={**family, **meta},
    )


def _answer(letter: object, choices: tuple[str, ...]) -> str | None:
    """The text of the choice that the letter names; None where it names none."""
    if not isinstance(letter, str) or len(letter.strip()) != 1:
        return None
    place = ord(letter.strip().upper()) - ord("A")
    return choices[place] if 0 <= place < len(choices) else None
