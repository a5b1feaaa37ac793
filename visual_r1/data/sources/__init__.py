"""Where problems come from: the generator, a folder, Parquet files, the hub."""

from pathlib import Path

from visual_r1.config import DataSection
from visual_r1.data.sources.generated import GeneratedSource
from visual_r1.data.sources.hub import HubSource
from visual_r1.data.sources.inter_gps import InterGPSSource
from visual_r1.data.sources.parquet import ParquetSource
from visual_r1.data.sources.source import SPLITS, Source, Split
from visual_r1.errors import DataError

__all__ = ["SPLITS", "Source", "Split", "open_source"]

_KINDS = "procedural, a hub id, a folder in the Inter-GPS layout, a Parquet file or folder"


def open_source(data: DataSection) -> Source:
    """The source that `data.source` names.

    Raises `DataError` where a path is there but nothing in it can be read, or where the name can
    be neither a path nor a hub id.
    """
    name = data.source
    if name == "procedural":
        return GeneratedSource(data)
    path = Path(name).expanduser()
    if path.exists():
        for kind in (ParquetSource, InterGPSSource):
            if (path.is_dir() or kind is ParquetSource) and kind.recognises(path):
                return kind(path)
        raise DataError(
            f"--data.source {name} is there, but holds neither Parquet files nor folders with a "
            f"data.json; a source is one of: {_KINDS}."
        )
    parts = name.partition("@")[0].split("/")
    if name.startswith((".", "/", "~")) or len(parts) > 2 or not all(parts):
        raise DataError(f"--data.source {name} is not there; a source is one of: {_KINDS}.")
    return HubSource(name)
