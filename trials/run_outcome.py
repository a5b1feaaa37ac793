"""What a run left, without times: two runs that went the same way are equal in all of it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from visual_r1.engine.store.soundness import tensor_fingerprints
from visual_r1.evaluation.predictions import read_predictions
from visual_r1.runs.journal import Journal, read_rollouts
from visual_r1.runs.ledger import Ledger
from visual_r1.runs.validations import Validations


@dataclass(frozen=True)
class Outcome:
    """Digests of the last state's tensors (optimizer included), the exported adapter if there is
    one, and every row of metrics, rollouts, checkpoints, validations and evaluations."""

    tensors: dict[str, str]
    adapter: bytes | None
    metrics: list[dict[str, Any]]
    rollouts: list[dict[str, Any]]
    checkpoints: list[tuple[int, int]]
    validations: list[tuple[int, str, float | None]]
    predictions: dict[str, list[dict[str, Any]]]

    def differing(self, other: "Outcome") -> list[str]:
        """Names of what is not the same."""
        names = (field.name for field in fields(self))
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def outcome_of(run_dir: Path, engine_home: Path) -> Outcome:
    """The outcome of the finished run in `run_dir`, whose checkpoints lie in `engine_home`."""
    ledger = Ledger(run_dir).rows()
    adapter = run_dir / "export/adapter/adapter_model.safetensors"
    return Outcome(
        tensors=tensor_fingerprints(engine_home, ledger[-1].state_path),
        adapter=adapter.read_bytes() if adapter.exists() else None,
        metrics=[_without_times(row) for row in Journal(run_dir).rows()],
        rollouts=[
            row
            for path in sorted(run_dir.glob("rollouts/*"))
            for row in read_rollouts(path).to_pylist()
        ],
        checkpoints=[(row.step, row.updates) for row in ledger],
        validations=[
            (row.step, row.right, row.blind_accuracy) for row in Validations(run_dir).rows()
        ],
        predictions={
            path.parent.name: read_predictions(path.parent)
            for path in sorted(run_dir.glob("evaluations/*/report.json"))
        },
    )


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("seconds_")}
