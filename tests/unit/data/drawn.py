"""Figures and sources that the tests of data draw for themselves."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from visual_r1.data.fingerprint import Look, near

CHOICES = ["30", "5 \\sqrt { 3 }", "\\frac { 15 } { 2 }", "120"]


def figure(
    number: int = 0, size: tuple[int, int] = (120, 90), mode: str = "RGB", kind: str = "PNG",
    **options: Any,
) -> bytes:  # fmt: skip
    """A drawn figure; another number gives another figure."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.polygon([(10, 80), (100, 80), (20 + number % 70, 10 + number % 50)], outline="black")
    draw.text((30, 40), str(number), fill="black")
    out = io.BytesIO()
    image.convert(mode).save(out, kind, **options)
    return out.getvalue()


def inter_gps(root: Path, splits: Mapping[str, int], start: int = 0) -> Path:
    """A folder in the Inter-GPS layout with so many problems in each split; "" has no folder."""
    number = start
    for split, count in splits.items():
        for _ in range(count):
            write_problem(root / split / str(number), number)
            number += 1
    return root


def write_problem(folder: Path, number: int, **changes: Any) -> None:
    """One problem folder; `changes` replace fields of data.json, None removes one."""
    folder.mkdir(parents=True)
    data = {
        "problem_text": f"Find x {number}.",
        "annotat_text": f"Find $x_{{{number}}}$.",
        "choices": CHOICES,
        "answer": "ABCD"[number % 4],
        "id": number,
        "problem_type_graph": ["Triangle"],
        "problem_type_goal": ["Length"],
    } | changes
    kept = {name: value for name, value in data.items() if value is not None}
    (folder / "data.json").write_text(json.dumps(kept))
    (folder / "img_diagram.png").write_bytes(figure(number))


def hub_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row in the schema of hiyouga/geometry3k."""
    images = [] if "images" in changes else [{"bytes": figure(number), "path": None}]
    return {
        "images": images,
        "problem": f"<image>Find $x_{{{number}}}$.",
        "answer": str(number),
    } | changes


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], schema: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), path)
    return path


def read_rejected(folder: Path, name: str = "rejected.parquet") -> list[dict[str, str]]:
    return pq.read_table(folder / name).to_pylist()


def closest(looks: Sequence[Look], stored: Sequence[bytes]) -> list[int]:
    """Which of the problems with these looks may have copies of the pictures, the likest first."""
    places, distances = near(looks, b"".join(stored))
    return places[np.argsort(distances, kind="stable")].tolist()
