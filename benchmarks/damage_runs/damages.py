"""One thing that is wrong with one file, drawn from a seed."""

import random
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

pa: Any = pyarrow
pq: Any = pyarrow.parquet
PAGE = 4096

KINDS = {
    "config": "runs/*/config.json",
    "ledger": "runs/*/ledger.jsonl",
    "metrics": "runs/*/metrics.jsonl",
    "validations": "runs/*/validation.jsonl",
    "alarms": "runs/*/alarms.jsonl",
    "rollouts": "runs/*/rollouts/*.parquet",
    "curriculum": "runs/*/curriculum/*.parquet",
    "evaluation report": "runs/*/evaluations/*/report.json",
    "predictions": "runs/*/evaluations/*/predictions.parquet",
    "export record": "runs/*/export/export.json",
    "adapter": "runs/*/export/adapter/*",
    "summary": "runs/*/summary.json",
    "page": "runs/*/report.html",
    "wall time": "runs/*/wall.json",
    "manifest": "data/*/manifest.json",
    "train shard": "data/*/train-*.parquet",
    "validation shard": "data/*/validation-*.parquet",
    "test shard": "data/*/test-*.parquet",
    "rejected rows": "data/*/rejected.parquet",
    "card": "data/*/README.md",
    "contact sheet": "data/*/contact_sheet.png",
    "state": "*/engine/sessions/*/weights/*/state.safetensors",
    "state record": "*/engine/sessions/*/weights/*/manifest.json",
    "sampler weights": "*/engine/sessions/*/sampler_weights/*/state.safetensors",
    "sampler record": "*/engine/sessions/*/sampler_weights/*/manifest.json",
    "external weights": "*/engine/sessions/*/external_weights/*/*",
    "session record": "*/engine/sessions/*/session.json",
    "model record": "*/engine/sessions/*/train-*/run.json",
    "other": "*",
}
"""Kinds of files by their place beneath an output folder; the first that matches."""

NO_CONTENT = (".lock", ".owner", "*.lock", "engine.log")
"""What is made at every start, and read by nobody for what is in it."""


class Damage(NamedTuple):
    """What was done, and to which files."""

    kind: str
    how: str
    files: tuple[Path, ...]
    what: str


def files_by_kind(place: Path) -> dict[str, list[Path]]:
    """All files beneath `place` that have a content, in a fixed order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and not any(fnmatch(path.name, name) for name in NO_CONTENT):
            name = str(path.relative_to(place))
            kind = next(kind for kind, pattern in KINDS.items() if fnmatch(name, pattern))
            found.setdefault(kind, []).append(path)
    return found


def draw(place: Path, rng: random.Random, only: str = "", how: str = "") -> Damage:
    """Damage a file beneath `place`: of a kind drawn from all, or of `only`; in the way `how`."""
    kinds = files_by_kind(place)
    kind = only or rng.choice(sorted(kinds))
    path = rng.choice(kinds[kind])
    way = how or rng.choice(sorted(WAYS))
    if way == "swapped":
        others = [one for one in kinds[kind] if one.read_bytes() != path.read_bytes()]
        rest = [one for files in kinds.values() for one in files if one.suffix == path.suffix]
        others = others or [one for one in rest if one.read_bytes() != path.read_bytes()]
        if others:
            other = rng.choice(others)
            first, second = path.read_bytes(), other.read_bytes()
            path.write_bytes(second)
            other.write_bytes(first)
            return Damage(kind, way, (path, other), f"with {other.relative_to(place)}")
        way = "garbage"
    before = path.read_bytes()
    what = WAYS[way](path, rng)
    if path.exists() and path.read_bytes() == before:  # zeros that were zeros
        way, what = "bit", _bit(path, rng)
    return Damage(kind, way, (path,), what)


def _exchanged_with_another(path: Path, rng: random.Random) -> str:
    """`draw` does it, which knows the others; here there is none."""
    return _garbage(path, rng)


def _bit(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes() or b"\0")
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place}"


def _random_bytes(count: int) -> Callable[[Path, random.Random], str]:
    def overwrite(path: Path, rng: random.Random) -> str:
        data = path.read_bytes()
        place = rng.randrange(max(1, len(data) - count))
        path.write_bytes(data[:place] + rng.randbytes(count) + data[place + count :])
        return f"from byte {place}"

    return overwrite


def _cut(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    end = rng.randrange(max(1, len(data)))
    path.write_bytes(data[:end])
    return f"to {end} of {len(data)} bytes"


def _emptied(path: Path, rng: random.Random) -> str:
    del rng
    path.write_bytes(b"")
    return ""


def _doubled_file(path: Path, rng: random.Random) -> str:
    del rng
    path.write_bytes(path.read_bytes() * 2)
    return ""


def _missing_file(path: Path, rng: random.Random) -> str:
    del rng
    path.unlink()
    return ""


def _zeroed(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    page = rng.randrange(max(1, -(-len(data) // PAGE))) * PAGE
    zeros = bytes(min(PAGE, len(data) - page))
    path.write_bytes(data[:page] + zeros + data[page + PAGE :])
    return f"page {page // PAGE}"


def _garbage(path: Path, rng: random.Random) -> str:
    count = rng.choice((1, 8, 64, 500))
    path.write_bytes(path.read_bytes() + rng.randbytes(count))
    return f"{count} bytes"


def _on_rows(change: Callable[[list[Any], random.Random], str]) -> Callable[..., str]:
    """Rows of a table, lines of a text, or blocks of anything else."""

    def apply(path: Path, rng: random.Random) -> str:
        data = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            places = list(range(table.num_rows))
            what = change(places, rng)
            pq.write_table(table.take(pa.array(places, pa.int64())), path, compression="zstd")
            return what
        try:
            pieces: list[Any] = data.decode().splitlines(keepends=True)
            what = change(pieces, rng)
            path.write_text("".join(pieces), newline="")
        except UnicodeDecodeError:
            pieces = [data[at : at + 64] for at in range(0, len(data), 64)]
            what = change(pieces, rng)
            path.write_bytes(b"".join(pieces))
        return what

    return apply


def _doubled(rows: list[Any], rng: random.Random) -> str:
    place = rng.randrange(max(1, len(rows)))
    rows[place:place] = rows[place : place + 1]
    return f"row {place}"


def _gone(rows: list[Any], rng: random.Random) -> str:
    place = rng.randrange(max(1, len(rows)))
    del rows[place : place + 1]
    return f"row {place}"


def _exchanged(rows: list[Any], rng: random.Random) -> str:
    if len(rows) < 2:
        return _doubled(rows, rng)
    a, b = sorted(rng.sample(range(len(rows)), 2))
    rows[a], rows[b] = rows[b], rows[a]
    return f"rows {a} and {b}"


WAYS: dict[str, Callable[[Path, random.Random], str]] = {
    "bit": _bit,
    "8 bytes": _random_bytes(8),
    "20 bytes": _random_bytes(20),
    "cut": _cut,
    "emptied": _emptied,
    "file doubled": _doubled_file,
    "row doubled": _on_rows(_doubled),
    "row gone": _on_rows(_gone),
    "rows exchanged": _on_rows(_exchanged),
    "missing": _missing_file,
    "zeroed": _zeroed,
    "garbage": _garbage,
    "swapped": _exchanged_with_another,
}
