"""What a run began with, where that is no new adapter: `start.json` in its folder, see `start`."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from visual_r1.errors import RunError
from visual_r1.storage import read_json

START_FILE = "start.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run began with: `run` and `step` where the address is a checkpoint of a run beside it.

    `optimizer` says whether Adam's moments came along.
    """

    state_path: str
    optimizer: bool
    base_model: str
    lora_rank: int | None
    run: str | None = None
    step: int | None = None

    def __str__(self) -> str:
        named = f"{self.run}, step {self.step}" if self.run else self.state_path
        return f"{named}, {'with' if self.optimizer else 'without'} its optimizer"


_STORED = TypeAdapter(Origin)


def origin_of(run_dir: Path) -> Origin | None:
    """What the run in `run_dir` began with; None where that is a new adapter.

    Raises `RunError` where the file is damaged.
    """
    place = run_dir / START_FILE
    if not place.exists():
        return None
    try:
        return read_json(place, _STORED)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{place}, which names what the run began with, cannot be read ({error}): put it back."
        ) from error
