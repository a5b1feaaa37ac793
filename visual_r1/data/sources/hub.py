"""A dataset on the Hugging Face hub, through `datasets`."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import httpx

from visual_r1.config import DataSection
from visual_r1.data.parquet import rows_at, rows_of
from visual_r1.data.problem import Split
from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.columns import id_of_columns, map_columns, row_from_columns
from visual_r1.data.sources.images_of_rows import ImageFiles
from visual_r1.data.sources.source import SplitNames, Wanted, every
from visual_r1.errors import DataError

_BATCH_ROWS = 32
_BATCH_IDS = 4096


class _HubSplit(Protocol):
    """What is used of `datasets.Dataset`."""

    column_names: list[str]
    features: Mapping[str, Any]

    def __len__(self) -> int: ...

    def select_columns(self, names: list[str]) -> "_HubSplit": ...

    def with_format(self, kind: str) -> "_HubSplit": ...

    def __getitem__(self, rows: slice) -> Any: ...


class HubSource:
    """A hub id, `owner/name` or `owner/name@revision`; its images are not decoded here.

    The fingerprint is the id with its revision: a dataset on the hub is taken to stay as it is,
    so that a prepared one is found again without a network.
    """

    def __init__(self, data: DataSection) -> None:
        self._data = data
        self.resorted = ()
        self._names = SplitNames(data.splits)
        self._name, _, self._revision = data.source.partition("@")
        self.slug = "-".join((*self._name.split("/"), *([data.subset] if data.subset else [])))
        self.fingerprint = self.former = data.source

    def sizes(self) -> Mapping[Split, int]:
        found: dict[Split, int] = {}
        for name, rows in self._splits.items():
            split = self._names.split_of(name)
            if split is not None:
                found[split] = found.get(split, 0) + len(rows)
        return found

    def rows(self, split: Split, start: int = 0, wanted: Wanted = every) -> Iterator[SourceRow]:
        before = 0
        for name, rows in self._splits.items():
            if self._names.split_of(name) == split:
                yield from self._rows_of(name, rows, split, before, max(0, start - before), wanted)
                before += len(rows)

    def ids(self, split: Split) -> Iterator[str]:
        before = 0
        for name, rows in self._splits.items():
            if self._names.split_of(name) != split:
                continue
            names = map_columns(self._data, rows.column_names, f"{name!r} of {self._name}")
            if names.id is None:
                yield from (f"{split}-{before + index}" for index in range(len(rows)))
            else:
                head = names.id if names.id in rows.column_names else names.id.partition(".")[0]
                tables = rows.select_columns([head]).with_format("arrow")
                for at in range(0, len(rows), _BATCH_IDS):
                    for index, columns in enumerate(rows_of(tables[at : at + _BATCH_IDS]), at):
                        yield id_of_columns(columns, names, f"{split}-{before + index}")
            before += len(rows)

    def _rows_of(
        self,
        name: str,
        rows: _HubSplit,
        split: Split,
        before: int,
        first: int,
        wanted: Wanted,
    ) -> Iterator[SourceRow]:
        where = f"the split {name!r} of {self._name}"
        names = map_columns(self._data, rows.column_names, where)
        # As Arrow holds them: nothing is decoded, and one bad value spoils its own row alone.
        tables = rows.select_columns(list(names.read)).with_format("arrow")
        classes: Mapping[str, Sequence[str]] = {
            column: rows.features[column].names
            for column in names.read
            if type(rows.features[column]).__name__ == "ClassLabel"
        }
        files = _downloaded()
        for at in range(first, len(rows), _BATCH_ROWS):
            numbers = range(at, min(at + _BATCH_ROWS, len(rows)))
            chosen = [index for index in numbers if wanted(before + index)]
            some = rows_at(tables[at : at + _BATCH_ROWS], [index - at for index in chosen])
            for index, columns in zip(chosen, some, strict=True):
                yield row_from_columns(
                    {
                        column: _named(value, classes.get(column))
                        for column, value in columns.items()
                    },
                    names,
                    place=f"{name} row {index}",
                    own_id=f"{split}-{before + index}",
                    source=self._name,
                    files=files,
                )

    @cached_property
    def _splits(self) -> Mapping[str, _HubSplit]:
        # Importing `datasets` takes a second, which no other source should pay for.
        import datasets  # pyright: ignore[reportMissingTypeStubs]
        from datasets.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
            DatasetsError,
        )
        from huggingface_hub.errors import HfHubHTTPError

        hub = cast(Any, datasets)
        try:
            with _hub_as_it_is():
                loaded = hub.load_dataset(
                    self._name, self._data.subset, revision=self._revision or None
                )
        except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or "no reason given"
            if "Config name is missing" in reason or "BuilderConfig" in reason:
                raise DataError(
                    f"the hub dataset {self._name!r} has several subsets and none was named, or "
                    f"one it has not (--data.subset): {reason[:300]}"
                ) from error
            raise DataError(
                f"there is no source {self._name!r} (--data.source): it is no file or folder here, "
                f"and as a hub dataset it cannot be loaded ({type(error).__name__}: "
                f"{reason[:300]}); check the name and the network, or use --data.source procedural."
            ) from error
        splits = cast("dict[str, _HubSplit]", dict(loaded))
        self._names.require_all(splits, self._name)
        return splits


@contextmanager
def _hub_as_it_is() -> Generator[None]:
    """`datasets` works offline, from what it has downloaded, where nobody answers at the hub.

    It would else retry for half a minute, with a page of warnings, before it says so.
    """
    import datasets  # pyright: ignore[reportMissingTypeStubs]
    from huggingface_hub import constants

    settings = cast(Any, datasets).config
    before = (settings.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    try:
        if not any(before):
            httpx.head(constants.ENDPOINT, timeout=10)
    except httpx.TransportError:
        settings.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True  # pyright: ignore[reportConstantRedefinition]
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before  # pyright: ignore[reportConstantRedefinition]


def _downloaded() -> ImageFiles:
    """Images that `datasets` left as files in its own folders."""
    import datasets  # pyright: ignore[reportMissingTypeStubs]
    from huggingface_hub.constants import HF_HUB_CACHE

    settings = cast(Any, datasets).config
    places = (HF_HUB_CACHE, settings.HF_DATASETS_CACHE, settings.DOWNLOADED_DATASETS_PATH)
    roots = [Path(str(place)) for place in places]
    return ImageFiles(roots[0], roots)


def _named(value: Any, names: Sequence[str] | None) -> Any:
    """The name of the class whose number a column of classes holds; other values as they are."""
    if names is None or not isinstance(value, int) or not 0 <= value < len(names):
        return value
    return names[value]
