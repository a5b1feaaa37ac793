"""Room for a run's checkpoints on the embedded engine: what it will need, and what there is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visual_r1.config import RunConfig
from visual_r1.engine.compute.lora import adapter_bytes
from visual_r1.engine.store.budget import MAX_DISK_VARIABLE, parse_size
from visual_r1.engine.store.ephemeral import EPHEMERAL_BYTES
from visual_r1.engine.store.home import HomeFolder
from visual_r1.engine.types import LoraSpec
from visual_r1.runs.ledger import Ledger

# Weights alone for the sampler; weights and both of Adam's moments for going on.
ADAPTERS_A_CHECKPOINT = 4
# Names, shapes and manifests: a hundredth of the shipped model's, less of any other's.
OVERHEAD = 1.02


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes in the engine's `home`: there now, and `needed` beside that at the fullest moment.

    `limit` None is no limit but the disk's; `needed` None is not known, for the model's files are
    not on this machine.
    """

    home: Path
    used: int
    limit: int | None
    needed: int | None


def room_for(config: RunConfig, environ: Mapping[str, str]) -> Room:
    """Look at the engine's home, and predict what the rest of the run saves there.

    Raises `ConfigError` where the limit is no size, `RunError` where the ledger is damaged.
    """
    home = HomeFolder(config.backend.engine_home or config.state_dir / "engine")
    text = environ.get(MAX_DISK_VARIABLE, "")
    now = datetime.now(UTC)
    # What the engine clears when it starts is no longer there.
    gone = sum(one.size_bytes for one in home.read_checkpoints() if one.expired(now))
    gone += sum(file.stat().st_size for file in home.ephemeral.glob("*"))
    return Room(
        home=home.path.absolute(),
        used=home.used_bytes() - gone,
        limit=parse_size(text) if text else None,
        needed=needed_bytes(config),
    )


def needed_bytes(config: RunConfig) -> int | None:
    """What the rest of the run adds to the engine's home, at its fullest moment.

    Those are its checkpoints, less what it deletes itself (`backend.keep_checkpoints`), and beside
    the last of them the sampler weights of each of its chunk's steps; then the exported adapter.
    """
    model = config.model
    adapter = adapter_bytes(
        model.name,
        LoraSpec(
            model.lora_rank,
            train_mlp=model.train_mlp,
            train_attn=model.train_attn,
            train_unembed=model.train_unembed,
        ),
    )
    if adapter is None:
        return None
    checkpoints = _further_checkpoints(config)
    if checkpoints is None:
        return 0
    steps = min(config.train.chunk_steps, config.train.steps)
    unnamed = min(steps * adapter, EPHEMERAL_BYTES)
    return math.ceil(OVERHEAD * (checkpoints * ADAPTERS_A_CHECKPOINT * adapter + unnamed))


def _further_checkpoints(config: RunConfig) -> int | None:
    """How many more than now there are at most at once; None where none is left to make."""
    rows = Ledger(config.run_dir).rows()
    size = config.train.chunk_steps
    ahead = math.ceil(config.train.steps / size) - (rows[-1].step // size if rows else 0)
    if ahead <= 0 or (rows and rows[-1].step >= config.train.steps):
        return None
    keep = config.backend.keep_checkpoints
    if keep is None:
        return ahead
    # One more while it is saved, before an old one goes.
    most = keep + bool(config.backend.keep_best and config.validation.every) + 1
    return min(ahead, max(most - len(rows), 0))
