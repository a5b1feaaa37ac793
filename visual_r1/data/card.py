"""The card of a dataset folder: README.md, as the Hugging Face hub shows it, and a contact sheet.

The YAML in front of it says which file belongs to which split, so that
`datasets.load_dataset(folder)` finds the splits and leaves `rejected.parquet` alone.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from visual_r1.data.contact_sheet import SHEET_FILE, write_contact_sheet
from visual_r1.data.journal import Journal
from visual_r1.data.manifest import Manifest
from visual_r1.data.sources.source import SPLITS
from visual_r1.data.stored import StoredProblems
from visual_r1.storage import write_text

CARD_FILE = "README.md"
SHOWN = 24
_TOKEN_SIDE = 32
_SIZE_CLASSES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def write_card(folder: Path, manifest: Manifest, journal: Journal) -> None:
    """Write the card and the contact sheet of the complete shards in `folder`."""
    train = StoredProblems(sorted(folder.glob("train-*.parquet")))
    count = min(SHOWN, len(train))
    places = [index * len(train) // count for index in range(count)]
    write_contact_sheet(folder / SHEET_FILE, (train[place] for place in places))
    lines = [*_front_matter(manifest), *_body(manifest, journal)]
    write_text(folder / CARD_FILE, "\n".join(lines) + "\n")


def _front_matter(manifest: Manifest) -> Iterator[str]:
    total = sum(manifest.counts[split] for split in SPLITS)
    yield "---"
    yield "license: unknown"
    yield f"pretty_name: {json.dumps(manifest.source, ensure_ascii=False)}"
    yield "task_categories:"
    yield "- visual-question-answering"
    yield "size_categories:"
    yield f"- {_size_class(total)}"
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    for split in SPLITS:
        if manifest.counts[split]:
            yield f"  - split: {split}"
            yield f"    path: {split}-*.parquet"
    yield "---"


def _size_class(total: int) -> str:
    """The hub's name for a size: `n<1K`, `1K<n<10K`, ..."""
    names = ("1K", "10K", "100K", "1M", "10M")
    for place, bound in enumerate(_SIZE_CLASSES):
        if total < bound:
            return f"{names[place - 1]}<n<{names[place]}" if place else "n<1K"
    return "n>10M"


def _body(manifest: Manifest, journal: Journal) -> Iterator[str]:
    yield f"\n# {manifest.source}\n"
    yield (
        "Visual questions with their figures and gold answers, prepared by Visual R1. Nothing is "
        "known here about the licence: that of the source holds."
    )
    yield "\n```python\nimport datasets\n"
    yield 'datasets.load_dataset("path/to/this/folder")\n```\n'
    yield from _table("split", "problems", {split: manifest.counts[split] for split in SPLITS})
    yield f"\n![Problems of the training split]({SHEET_FILE})\n"
    yield "## Answers\n\nAs the grader reads them.\n"
    yield from _table("kind", "problems", journal.numbers.answer_kinds())
    yield "\n## Images\n"
    yield from _images(journal)
    yield "\n## What was left out\n"
    yield from _left_out(manifest)
    yield "\n## Where it comes from\n"
    yield f"- Source: `{manifest.source}`, fingerprint `{manifest.fingerprint}`"
    yield f"- Digest of source and settings: `{manifest.digest}`"
    yield f"- Prepared: {manifest.created_at}, format {manifest.format_version}"
    yield "\n```json"
    yield json.dumps(dict(manifest.settings), indent=2, ensure_ascii=False)
    yield "```"


def _images(journal: Journal) -> Iterator[str]:
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
        low, middle, high = journal.numbers.spread(expression)
        yield f"| {name} | {low:,} | {middle:,} | {high:,} |"
    yield ""
    counts = {str(images): problems for images, problems in journal.numbers.images_each().items()}
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
        shown = key.replace("|", "\\|")
        yield f"| {shown} | {value:,} |"
