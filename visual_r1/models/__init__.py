"""Models by name: the shipped tiny model, or one of a known family on the hub or in a folder."""

from pathlib import Path

TINY_GEOMETRY = "visual-r1/tiny-geometry"

_TINY_GEOMETRY_FOLDER = Path(__file__).parent / "tiny_geometry"


def model_path(name: str) -> str:
    """Where `name` loads from: the package's folder for the shipped model, else `name` itself."""
    return str(_TINY_GEOMETRY_FOLDER) if name == TINY_GEOMETRY else name
