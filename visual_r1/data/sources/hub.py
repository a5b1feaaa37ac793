"""A dataset on the Hugging Face hub, through `datasets`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from visual_r1.data.rows import SourceRow
from visual_r1.data.sources.columns import row_from_columns
from visual_r1.data.sources.source import Split, split_of
from visual_r1.errors import DataError


class HubSource:
    """A hub id, `owner/name` or `owner/name@revision`; its images are not decoded here.

    The fingerprint is the id with its revision: a dataset on the hub is taken to stay as it is,
    so that a prepared one is found again without a network.
    """

    def __init__(self, name: str) -> None:
        self._name, _, self._revision = name.partition("@")
        self.slug = self._name.replace("/", "-")
        self.fingerprint = name

    def sizes(self) -> Mapping[Split, int]:
        found: dict[Split, int] = {}
        for name, rows in self._splits.items():
            split = split_of(name)
            if split is not None:
                found[split] = found.get(split, 0) + len(rows)
        return found

    def rows(self, split: Split, start: int = 0) -> Iterator[SourceRow]:
        before = 0
        for name, rows in self._splits.items():
            if split_of(name) != split:
                continue
            for index in range(max(0, start - before), len(rows)):
                yield row_from_columns(
                    rows[index],
                    place=f"{name} row {index}",
                    own_id=f"{split}-{before + index}",
                    source=self._name,
                    root=None,
                )
            before += len(rows)

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        # Importing `datasets` takes a second, which no other source should pay for.
        import datasets  # pyright: ignore[reportMissingTypeStubs]
        from datasets.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
            DatasetsError,
        )
        from huggingface_hub.errors import HfHubHTTPError

        hub = cast(Any, datasets)
        try:
            loaded = hub.load_dataset(self._name, revision=self._revision or None)
        except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
            raise DataError(
                f"there is no source {self._name!r} (--data.source): it is no file or folder here, "
                f"and as a hub dataset it cannot be loaded ({type(error).__name__}: "
                f"{(str(error).splitlines() or ['no reason given'])[0]}); check the name and the "
                "network, or use --data.source procedural."
            ) from error
        undecoded = {
            "images": hub.List(hub.Image(decode=False)),
            "image": hub.Image(decode=False),
        }
        splits: dict[str, Any] = {}
        for name, rows in loaded.items():
            columns = cast("list[str]", rows.column_names)
            pictures = [column for column in undecoded if column in columns]
            if not pictures or not {"problem", "answer"} <= set(columns):
                raise DataError(
                    f"the hub dataset {self._name!r} has the columns {', '.join(columns)} in its "
                    f"split {name!r}; problems need images, problem and answer."
                )
            splits[name] = rows.cast_column(pictures[0], undecoded[pictures[0]])
        return splits
