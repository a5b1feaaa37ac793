"""A made-up working directory with a run whose rollouts say what a test wants them to say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from made_up import picture

from visual_r1.data.manifest import Manifest, StoredFile, write_manifest
from visual_r1.data.problem import Problem
from visual_r1.data.shards import finished_shard, problem_row, write_shard
from visual_r1.hashing import file_digest
from visual_r1.runs.journal import rollout_table
from visual_r1.runs.ledger import Ledger, LedgerRow
from visual_r1.storage import write_json
from visual_r1.tables import pa, write_table

RUN, DIGEST = "made-up", "0a1b2c3d"
HOSTILE = {
    "a script": "<script>document.title='taken'</script><answer>1</answer>",
    "an image": "<img src=x onerror=\"document.title='taken'\"><answer>1</answer>",
    "a style": "<style>*{display:none}</style></bdi></div></article><h1>gone</h1>",
    "a template": "{{ 7 * 7 }} {% raw %} ${7*7} &lt;b&gt;",
    "marks": "right\u202eto\u2066left\u200bzero\ufeffwidth\u0000nul\u2028line",
    "long": "<think>" + "very long. " * 9_100 + "</think><answer>1</answer>",
}
SCHEMA = rollout_table([]).schema
for _component in ("reward_accuracy", "reward_format"):
    SCHEMA = SCHEMA.append(pa.field(_component, pa.float64()))


def stored_problem(index: int, **changes: Any) -> Problem:
    """A problem with a figure, whose answer is 62."""
    values: dict[str, Any] = {
        "id": f"set/{index}",
        "images": (picture(index),),
        "problem": "<image>Find the measure of angle C.",
        "answer": "62",
        "source": "made up",
        "meta": {"family": "triangle", "facts": ["angle A reads 74", "angle B reads 44"]},
    }
    return Problem(**{**values, **changes})


def rollout_row(step: int, group: int, sample: int, **changes: Any) -> dict[str, Any]:
    """A rollout of `set/<group>`: right where the sample is even."""
    right = sample % 2 == 0
    answer = 62 if right else 60 + sample
    values: dict[str, Any] = {
        "step": step,
        "problem_id": f"set/{group}",
        "group": group,
        "sample": sample,
        "response": f"<think>74+44=118. 180-118={answer}.</think><answer>{answer}</answer>",
        "reward": 1.5 if right else 0.5,
        "reward_accuracy": float(right),
        "reward_format": 1.0,
        "advantage": 1.0 if right else -1.0,
        "response_tokens": 20 + sample,
        "stop_reason": "stop",
        "verdict": "right" if right else "wrong",
        "reason": "the same answer" if right else "another answer",
        "grader_version": "4",
        "outcome": None,
        "second_verdict": None,
        "scan_read": None,
        "second_response": None,
        "second_order": None,
        "failure": None,
    }
    return {**values, **changes}


def write_rollouts(run_dir: Path, chunk: int, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A chunk as a run leaves it."""
    path = run_dir / "rollouts" / f"chunk-{chunk:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.Table.from_pylist(list(rows), schema=SCHEMA))
    return path


def write_home(
    home: Path,
    problems: Sequence[Problem],
    settings: Mapping[str, Any] | None = None,
    config_digest: str = "1",
) -> Path:
    """A working directory with a dataset of `problems` and the folder of a run on it."""
    dataset = home / "data" / f"made-up-{DIGEST}"
    dataset.mkdir(parents=True)
    shard = finished_shard(dataset, "train", 0, 1)
    write_shard(shard, ((problem_row(one), sum(map(len, one.images)) + 100) for one in problems))
    stored = StoredFile(bytes=shard.stat().st_size, rows=len(problems), digest=file_digest(shard))
    write_manifest(
        dataset,
        Manifest(
            format_version=3, source="made up", digest=DIGEST, settings={}, fingerprint="1",
            created_at="2026-05-01T10:00:00+00:00",
            counts={"train": len(problems), "validation": 0, "test": 0, "rejected": 0},
            reasons={}, files={shard.name: stored},
        ),
    )  # fmt: skip
    run_dir = home / "runs" / RUN
    run_dir.mkdir(parents=True)
    plain = {"reward": {"accuracy": 1.0, "format": 0.5, "rounding": "exact"}, "second_pass": {}}
    write_json(run_dir / "config.json", plain | dict(settings or {}))
    Ledger(run_dir).append(
        LedgerRow(
            step=1, state_path="tinker://s/weights/1", sampler_path="tinker://s/sampler_weights/1",
            expires_at=None, config_digest=config_digest, dataset_digest=DIGEST, backend="embedded",
            created_at="2026-05-01T10:00:00+00:00", updates=1,
        )
    )  # fmt: skip
    return run_dir


def damage(path: Path) -> None:
    """Turn bits in the first pages of a file, behind which its footer begins soon."""
    content = bytearray(path.read_bytes())
    content[200:208] = bytes(one ^ 0xFF for one in content[200:208])
    path.write_bytes(bytes(content))


def as_text(value: object) -> str:
    """A value as a script has it."""
    return json.dumps(value)
