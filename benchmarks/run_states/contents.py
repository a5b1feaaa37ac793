"""What a run left, file by file, read by the files' formats alone: no module of the house is asked.

So a reader is never both the judge and the accused, and this holds for a run of any commit.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.numpy import load_file

# Another invocation has other times, another place, and sessions of its own, and so other digests
# of rows and files that hold them.
DROPPED = ("created_at", "seconds", "wall_seconds", "output_dir", "chain", "checksum")
# By which rule a row's configuration has its digest, see `RunConfig.older_digest`.
DROPPED += ("config_digest",)
# What versions since have added to rows and files of before: left out where the older has none.
ADDED = ("digests", "lines", "digest", "predictions_digest", "periodic", "spared", "promote_as")
ADDED += ("taken_from", "shared_as", "scan_masked", "scan_held_answer")
SESSION = re.compile(r"\b[0-9a-f]{32}(?=:train:)")


def left_by(run: Path) -> dict[str, Any]:
    """All that the run in the folder left, its checkpoints and its dataset's manifest too, by name.

    JSON-able, without times and sessions: equal for two runs that went the same way.
    """
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "wall.json")
    found = {str(path.relative_to(run)): content(path) for path in files if path.suffix in READ}
    for row in rows(run / "ledger.jsonl"):
        for kind in ("state_path", "sampler_path"):
            session, _, number, *inside = re.split("[:/]", row[kind].removeprefix("tinker://"))
            home = run.parents[1] / ".visual-r1/engine/sessions" / session / f"train-{number}"
            saved = sorted(home.joinpath(*inside).glob("*.safetensors"))
            found["/".join(inside)] = {path.name: tensors(path) for path in saved}
    for path in (run.parents[1] / "data").glob("*/*"):
        if path.suffix in READ:
            found[f"data/{path.parent.name}/{path.name}"] = content(path)
    return settled(found)


def content(path: Path) -> Any:
    """What is in a file."""
    return READ[path.suffix](path)


def rows(path: Path) -> list[Any]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path: Path) -> dict[str, Any]:
    """The rows of a Parquet file, and its columns with all that is said of them."""
    found = pq.read_table(path)
    features = json.loads((found.schema.metadata or {}).get(b"huggingface", b"{}"))
    types = {field.name: f"{field.type} {field.metadata}" for field in found.schema}
    return {"columns": types, "features": features, "rows": found.to_pylist()}


def tensors(path: Path) -> dict[str, str]:
    """Type, shape and a digest of the bits of each, Adam's moments among them where they are."""
    return {
        name: f"{values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"
        for name, values in load_file(path).items()
    }


READ = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": rows,
    ".parquet": table,
    ".safetensors": tensors,
}


def settled(value: Any) -> Any:
    """Without what another invocation does otherwise, and with a digest for bytes."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in DROPPED and not k.startswith("seconds_")}
        # Whether a checkpoint has a time limit is what counts of it.
        return {k: v is not None if k == "expires_at" else settled(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [settled(one) for one in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return SESSION.sub("SESSION", value) if isinstance(value, str) else value


def difference(old: Any, new: Any, where: str = "") -> str:
    """The first place where two contents differ, and how; empty where they are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = {*old, *(name for name in new if name not in ADDED)}
        pairs = ((name, old.get(name), new.get(name)) for name in sorted(names))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = ((str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)))
    else:
        before, now = json.dumps(old), json.dumps(new)  # as text, so that NaN agrees with itself
        return "" if before == now else f"{where}: {before[:80]} then, {now[:80]} now"
    told = (difference(a, b, f"{where}/{name}") for name, a, b in pairs)
    return next(filter(None, told), "")
