"""Where problems come from: the generator, files and folders, the hub."""

from pathlib import Path

from visual_r1.config import DataSection
from visual_r1.data.problem import SPLITS, Split
from visual_r1.data.sources.files import FilesSource, row_files
from visual_r1.data.sources.generated import GeneratedSource
from visual_r1.data.sources.hub import HubSource
from visual_r1.data.sources.inter_gps import InterGPSSource
from visual_r1.data.sources.source import Source, require_unused
from visual_r1.errors import DataError

__all__ = ["SPLITS", "Source", "Split", "open_source", "require_readable"]

_CHOICE = (
    "procedural, a hub id, a folder in the Inter-GPS layout, or a file or folder of Parquet, JSON "
    "lines (.jsonl), or images with metadata.jsonl, .csv or .parquet beside them"
)


def open_source(data: DataSection) -> Source:
    """The source that `data.source` names.

    Raises `DataError` where a path is there but nothing in it can be read, or where the name can
    be neither a path nor a hub id.
    """
    name = data.source
    if name == "procedural":
        return GeneratedSource(data)
    path = Path(name).expanduser()
    if not path.exists():
        parts = name.partition("@")[0].split("/")
        if name.startswith((".", "/", "~")) or len(parts) > 2 or not all(parts):
            raise DataError(f"--data.source {name} is not there; a source is one of: {_CHOICE}.")
        return HubSource(data)
    require_unused(data, "a file or folder", "subset")
    files = row_files(path)
    if files:
        return FilesSource(path, files, data)
    if path.is_dir() and InterGPSSource.recognises(path):
        return InterGPSSource(path, data)
    if path.suffix == ".json":
        raise DataError(
            f"--data.source {data.source} is one JSON document; a problem a line can be read: "
            f"jq -c '.[]' {path.name} > {path.stem}.jsonl makes that of a list."
        )
    raise DataError(
        f"--data.source {data.source} is there, but holds neither Parquet files nor JSON lines nor "
        f"folders with a data.json; a source is one of: {_CHOICE}."
    )


def require_readable(data: DataSection) -> None:
    """Raise `DataError` for what can be told of a source at a glance, before anything is started.

    That is whether it is there, and of local files which columns they have.
    """
    source = open_source(data)
    if isinstance(source, FilesSource):
        source.require_columns()
