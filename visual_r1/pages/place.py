"""Where the runs lie that are shown, and what they are called in addresses."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from visual_r1.errors import DataError, VisualR1Error

OF_A_RUN = ("config.json", "ledger.jsonl")
"""A folder with one of these is a run's."""


class NotThere(VisualR1Error):
    """What an address names is not there; its page says so, with status 404."""


@dataclass(frozen=True, slots=True)
class Place:
    """The working directory, and the runs that were named; where none was, all under its runs/."""

    output_dir: Path
    named: tuple[Path, ...] = ()

    @property
    def state_dir(self) -> Path:
        """Where the pages keep what is theirs, beside the runs and never in them."""
        return self.output_dir / ".visual-r1" / "pages"

    def runs(self) -> dict[str, Path]:
        """The folders by the names that addresses have for them, in no order.

        Of two folders of one name, the second is `NAME~2`.
        """
        found: dict[str, Path] = {}
        for folder in self.named or self._all():
            # A name of a file need not be text: what is none of it cannot stand in an address.
            name, count = os.fsencode(folder.absolute().name).decode("utf-8", "replace"), 1
            while (key := name if count == 1 else f"{name}~{count}") in found:
                count += 1
            found[key] = folder
        return found

    def run(self, name: str) -> Path:
        """The folder of the run that an address names; raises `NotThere`."""
        # Looked up and never put together: a name is no path.
        if (folder := self.runs().get(name)) is None:
            raise NotThere(f"There is no run {name!r} here: it was removed, or never was.")
        return folder

    def _all(self) -> Iterator[Path]:
        runs = self.output_dir / "runs"
        try:
            paths = list(runs.iterdir()) if runs.is_dir() else []
        except OSError as error:
            raise DataError(
                f"{runs} cannot be read ({error.strerror or error}): give yourself access to it, "
                "or name another --output-dir."
            ) from error
        for path in paths:
            with suppress(OSError):  # of one that cannot be entered nobody can say what it is
                if any((path / name).exists() for name in OF_A_RUN):
                    yield path


def place_of(request: Request) -> Place:
    """That of the application which got the request."""
    place = request.app.state.place
    assert isinstance(place, Place)
    return place
