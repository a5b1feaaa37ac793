"""What a run left, read by the files' formats alone, and how it differs from what it should be.

What differs between two undamaged runs (times, sessions, digests over them) is learnt from several
of them and counts for nothing.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from run_states.contents import READ, settled

ENGINE = ".visual-r1/engine/sessions"
_TIMES = re.compile(
    r'- Prepared: |<div><dt>wall time</dt>|<tr>.*<span class="swatch (phase-\w+)?">'
    r'|<div class="bar" aria-hidden="true"><i class="phase-'
)
"""Lines that a report has for times: which of them there are is a matter of time, too."""
Leaves = dict[str, str]
Contents = dict[str, Leaves]
"""By file and by the place in it, its values as JSON."""


def key_of(place: Path, path: Path) -> str:
    """A file's name without the session that made it."""
    name = path.relative_to(place)
    if str(name).startswith(ENGINE):
        return "engine/" + "/".join(name.parts[4:])
    return str(name)


def contents(place: Path) -> Contents:
    """Of a whole output folder: the run, its dataset, and the checkpoints that its ledger names."""
    found: Contents = {}
    for top in ("runs", "data"):
        for path in sorted((place / top).rglob("*")):
            if path.is_file() and not path.name.startswith(".") and ".lock" not in path.name:
                found[key_of(place, path)] = leaves_of(path, place)
    for ledger in place.glob("runs/*/ledger.jsonl"):
        for row in _rows(ledger):
            for name in (row.get("state_path"), row.get("sampler_path")):
                session, _, number, *inside = (
                    str(name).removeprefix("tinker://").replace("/", ":").split(":")
                )
                folder = place / ENGINE / session / f"train-{number}" / "/".join(inside)
                for path in sorted(folder.glob("*")):
                    found[key_of(place, path)] = leaves_of(path, place)
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def leaves_of(path: Path, place: Path) -> Leaves:
    """What is in a file, value by value; of one that cannot be read, that.

    Where `place` is does not count: each worker has its own, and files hold that of who made them.
    """
    places = re.compile(rf"{re.escape(str(place.parent))}/\d+")
    data = path.read_bytes()
    if path.suffix in (".html", ".md"):
        lines = data.decode(errors="replace").splitlines()
        timeless = (line for line in lines if not _TIMES.match(line))
        texts = (places.sub("PLACE", str(settled(line))) for line in timeless)
        return {str(number): text for number, text in enumerate(texts)}
    if path.suffix not in READ:
        return {"": hashlib.sha256(data).hexdigest()}
    try:
        value = READ[path.suffix](path)
    except Exception as error:  # noqa: BLE001  whatever a reader of another's file format raises
        return {"": f"unreadable: {type(error).__name__}"}
    leaves: Leaves = {}
    _flatten(settled(value), "", leaves)
    return {where: places.sub("PLACE", text) for where, text in leaves.items()}


def _flatten(value: Any, where: str, into: Leaves) -> None:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            _flatten(one, f"{where}/{name}", into)
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            _flatten(one, f"{where}/{number}", into)
    else:
        into[where] = json.dumps(value)


class Reference:
    """What undamaged runs leave; several of them, to know what differs among them anyhow."""

    def __init__(self, runs: list[Contents]) -> None:
        self._first = runs[0]
        self._volatile = {
            (file, where)
            for run in runs[1:]
            for file in {*run, *self._first}
            for where in _different(self._first.get(file, {}), run.get(file, {}))
        }

    def differing(self, found: Contents) -> dict[str, list[str]]:
        """Files that are not as they should be, and where in them. What lies there besides, set
        aside say, is not among it."""
        differences: dict[str, list[str]] = {}
        for file, leaves in self._first.items():
            places = [
                where
                for where in _different(leaves, found.get(file, {}))
                if (file, where) not in self._volatile
            ]
            if places:
                differences[file] = places
        return differences

    def to_json(self) -> Any:
        """For a file."""
        return {"first": self._first, "volatile": sorted(map(list, self._volatile))}

    @staticmethod
    def from_json(stored: Any) -> "Reference":
        """Its inverse."""
        made = Reference([stored["first"]])
        made._volatile = {(file, where) for file, where in stored["volatile"]}
        return made


def _different(one: Leaves, other: Leaves) -> list[str]:
    return [where for where in sorted({*one, *other}) if one.get(where) != other.get(where)]
