"""Models by name: the shipped tiny model, or one of a known family on the hub or in a folder."""

from pathlib import Path
from typing import Literal

from visual_r1.opening import user_path

Thinking = Literal["default", "on", "off"]
"""Whether a model thinks before it answers: as its chat template has it, or as that is told."""

TINY_GEOMETRY = "visual-r1/tiny-geometry"

_TINY_GEOMETRY_FOLDER = Path(__file__).parent / "tiny_geometry"


def hub_id(name: str) -> str:
    """A server's name of a model as the hub and the lists of models know it.

    What stands behind ":" (`Qwen/Qwen3.6-35B-A3B:peft:262144`) says how a Tinker server runs it,
    and is for the server alone. A folder keeps its whole name, where that begins at home (`~`) with
    the home of the user who asks.
    """
    if name.startswith("~"):
        name = str(user_path(name))
    return name if Path(name).is_dir() else name.partition(":")[0]


def model_path(name: str) -> str:
    """Where `name` loads from: the package's folder for the shipped model, else the folder or hub
    id itself, without a server's suffix."""
    known = hub_id(name)
    return str(_TINY_GEOMETRY_FOLDER) if known == TINY_GEOMETRY else known
