"""The card of a dataset folder: README.md, as the Hugging Face hub shows it, and a contact sheet.

The YAML in front of the card says which file belongs to which split, so that
`datasets.load_dataset(folder)` finds the splits and leaves `rejected.parquet` alone. The contact
sheet is a picture of problems side by side, each with its first figure, question and answer.
"""

import io
import json
import textwrap
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

from huggingface_hub import DatasetCardData
from PIL import Image, ImageDraw, ImageFont

from visual_r1.data.manifest import Manifest
from visual_r1.data.preparation_state import CardNumbers
from visual_r1.data.problem import SPLITS, Problem
from visual_r1.data.shards import StoredProblems
from visual_r1.grading.expressions import (
    Binary,
    Constant,
    Expression,
    Literal,
    Negative,
    Root,
    contains,
    variables,
)
from visual_r1.grading.forms import Clock, Equation, Group, Named, Quantity, Ratio, Relation, Word
from visual_r1.grading.reading import read
from visual_r1.grading.spelling import Unreadable
from visual_r1.grading.texts import is_words
from visual_r1.storage import replaced_whole, write_text
from visual_r1.wording import as_markdown, printable

CARD_FILE = "README.md"
SHEET_FILE = "contact_sheet.png"
SHOWN = 24
COLUMNS = 4
_TOKEN_SIDE = 32

# The hub's names for sizes, and the bounds between them.
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
_SIZE_BOUNDS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
# The parts of a cell of the contact sheet, in pixels; a line of its text has so many characters.
_WIDTH, _FIGURE, _MARGIN = 260, 180, 12
_TEXT_SIZE, _LINE, _LINES, _CHARACTERS = 13, 17, 4, 36
_HEIGHT = _FIGURE + (_LINES + 1) * _LINE + 3 * _MARGIN
_PAPER, _INK, _ANSWER, _FRAME = "white", (40, 40, 48), (20, 90, 60), (222, 222, 228)


def write_sheet(folder: Path) -> None:
    """Write the contact sheet of the complete training shards in `folder`."""
    train = StoredProblems(sorted(folder.glob("train-*.parquet")))
    count = min(SHOWN, len(train))
    places = [index * len(train) // count for index in range(count)]
    cells = [_cell(train[place]) for place in places]
    rows = max(1, -(-len(cells) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * _WIDTH, rows * _HEIGHT), _PAPER)
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % COLUMNS * _WIDTH, index // COLUMNS * _HEIGHT))
    with replaced_whole(folder / SHEET_FILE) as temporary:
        sheet.save(temporary, "PNG")


def write_card(folder: Path, manifest: Manifest, numbers: CardNumbers) -> None:
    """Write the card of a complete folder, which shows its contact sheet."""
    total = sum(manifest.counts[split] for split in SPLITS)
    files = [
        {"split": split, "path": f"{split}-*.parquet"} for split in SPLITS if manifest.counts[split]
    ]
    front_matter = cast(Any, DatasetCardData)(
        license="unknown",
        pretty_name=manifest.source,
        task_categories=["visual-question-answering"],
        size_categories=[_SIZE_NAMES[bisect_right(_SIZE_BOUNDS, total)]],
        configs=[{"config_name": "default", "data_files": files}],
    ).to_yaml(original_order=["license", "pretty_name", "task_categories", "size_categories"])
    lines = ["---", front_matter, "---", *_body(manifest, numbers)]
    write_text(folder / CARD_FILE, "\n".join(lines) + "\n")


def _body(manifest: Manifest, numbers: CardNumbers) -> Iterator[str]:
    yield f"\n# {as_markdown(manifest.source)}\n"
    yield (
        "Visual questions with their figures and gold answers, prepared by Visual R1. Nothing is "
        "known here about the licence: that of the source holds."
    )
    yield "\n```python\nimport datasets\n"
    yield 'datasets.load_dataset("path/to/this/folder")\n```\n'
    yield from _table("split", "problems", {split: manifest.counts[split] for split in SPLITS})
    yield from _cut(manifest)
    yield f"\n![Problems of the training split]({SHEET_FILE})\n"
    yield "## Answers\n\nAs the grader reads them.\n"
    yield from _table("kind", "problems", numbers.answer_kinds())
    yield "\n## Images\n"
    yield from _images(numbers)
    yield "\n## What was left out\n"
    yield from _left_out(manifest)
    yield "\n## Where it comes from\n"
    yield f"- Source: {as_markdown(manifest.source)}, fingerprint `{manifest.fingerprint}`"
    yield f"- Digest of source and settings: `{manifest.digest}`"
    yield f"- Prepared: {manifest.created_at}, format {manifest.format_version}"
    yield "\n```json"
    yield printable(json.dumps(dict(manifest.settings), indent=2, ensure_ascii=False), lines=True)
    yield "```"


def _cut(manifest: Manifest) -> Iterator[str]:
    """How a set that was cut here was cut; nothing of others, and of one cut by its ids alone."""
    if not manifest.cut:
        return
    problems, figures, shared = (manifest.cut[name] for name in ("problems", "figures", "shared"))
    if shared:
        yield (
            f"\n**{shared:,} problems of validation and test show a figure that training shows as "
            f"well**: the source has one split, and all of its {problems:,} problems hang together "
            "by figures that they share, so it was cut by their ids."
        )
    else:
        yield (
            f"\nThe source has one split, which was cut by figures: its {problems:,} problems are "
            f"{figures:,} groups of those that share one, directly or through others, and each "
            "group is in one split."
        )


def _images(numbers: CardNumbers) -> Iterator[str]:
    yield "| | smallest | median | largest |\n| --- | ---: | ---: | ---: |"
    side = f"MAX(1, ({{}} + {_TOKEN_SIDE // 2}) / {_TOKEN_SIDE})"
    rows = {
        "width, px": "width",
        "height, px": "height",
        "area, px": "width * height",
        f"tokens of {_TOKEN_SIDE} x {_TOKEN_SIDE} px, unscaled": (
            f"{side.format('width')} * {side.format('height')}"
        ),
    }
    for name, expression in rows.items():
        low, middle, high = numbers.spread(expression)
        yield f"| {name} | {low:,} | {middle:,} | {high:,} |"
    yield ""
    counts = {str(images): problems for images, problems in numbers.images_each().items()}
    yield from _table("images a problem", "problems", counts)


def _left_out(manifest: Manifest) -> Iterator[str]:
    repeats, conflicts = manifest.duplicates["repeats"], manifest.duplicates["conflicts"]
    yield (
        f"{manifest.counts['rejected']:,} rows; `rejected.parquet` names each with its reason. "
        f"{repeats:,} repeat another problem: the same question, but for spaces and capitals, over "
        "the same image, also where that was encoded again or resized. "
        f"{conflicts:,} are labels in conflict: the same question over the same image with "
        "different answers.\n"
    )
    if manifest.reasons:
        yield from _table("reason", "rows", manifest.reasons)
    for name, count in manifest.duplicates.items():
        if name.startswith("kept in "):
            yield (
                f"\n{count:,} problems of {name.removeprefix('kept in ')} repeat another one of "
                "it and stayed, since figures are compared over all of a published split."
            )


def _table(name: str, count: str, rows: Mapping[str, int]) -> Iterator[str]:
    yield f"| {name} | {count} |\n| --- | ---: |"
    for key, value in rows.items():
        yield f"| {as_markdown(key)} | {value:,} |"


def _cell(problem: Problem) -> Image.Image:
    """A problem's figure over its question and its answer."""
    cell = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen = ImageDraw.Draw(cell)
    pen.rectangle((2, 2, _WIDTH - 3, _HEIGHT - 3), outline=_FRAME)
    with Image.open(io.BytesIO(problem.images[0])) as image:
        figure = image.convert("RGB")
    figure.thumbnail((_WIDTH - 2 * _MARGIN, _FIGURE), Image.Resampling.LANCZOS)
    cell.paste(figure, ((_WIDTH - figure.width) // 2, _MARGIN + (_FIGURE - figure.height) // 2))
    font = ImageFont.load_default(_TEXT_SIZE)
    top = _FIGURE + 2 * _MARGIN
    wrapped = partial(textwrap.wrap, width=_CHARACTERS, placeholder=" ...")
    for line in wrapped(printable(problem.question, lines=True), max_lines=_LINES):
        pen.text((_MARGIN, top), line, fill=_INK, font=font)
        top += _LINE
    answer = "".join(wrapped(printable(problem.answer), max_lines=1))
    pen.text((_MARGIN, _HEIGHT - _MARGIN - _LINE), answer, fill=_ANSWER, font=font)
    return cell


@lru_cache(maxsize=4096)
def answer_kind(answer: str) -> str:
    """What kind of thing an answer is, as the grader reads it.

    integer, decimal, fraction, radical, with π, letter, word, expression, ... or other.
    """
    text = answer.strip().strip("().")
    if len(text) == 1 and text.isalpha():
        return "letter"
    try:
        form = read(answer)[0].chain[0]
    except Unreadable:
        return "word" if is_words(text) else "other"
    match form:
        case Quantity():
            return "percent" if form.percent else _expression_kind(form.expression)
        case Ratio():
            return "ratio"
        case Clock():
            return "time"
        case Word():
            return "word"
        case Group("list" | "set"):
            return "several values"
        case Group("∥" | "⊥" | "≅" | "∼"):
            return "statement"
        case Group("matrix"):
            return "matrix"
        case Group():
            return "pair or interval"
        case Relation():
            return "inequality"
        case Equation():
            return "equation"
        case Named():
            return "name"


def _expression_kind(expression: Expression) -> str:
    if variables(expression):
        return "expression"
    if contains(expression, Root):
        return "radical"
    if contains(expression, Constant):
        return "with π"
    match expression:
        case Negative(inside):
            return _expression_kind(inside)
        case Literal(value, None):
            return "integer" if value.denominator == 1 else "fraction"
        case Literal():
            return "decimal"
        case Binary("/", _, _):
            return "fraction"
        case _:
            return "expression"
