"""When too many rows of a source are bad: the preparation stops, and says what is wrong with them.

A duplicate is left out as well, but it is no fault of its row: it does not count here.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from visual_r1.errors import DataError

# What differs from one row to the next: quoted values, and numbers.
_VALUE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+(?:\.\d+)?")
_NAMED = 3


def reason_kind(reason: str) -> str:
    """The reason without the values of its one row, so that equal faults are counted together."""
    return _VALUE.sub("…", reason)


def require_few_rejected(
    source: str, rejected: int, seen: int, share: float, kinds: Mapping[str, int], listed_in: Path
) -> None:
    """Raise `DataError` where more than `share` of the rows were bad.

    Args:
        source: as the user named it.
        rejected: bad rows.
        seen: rows in all.
        share: `data.max_rejected_share`.
        kinds: bad rows by `reason_kind`.
        listed_in: the file that holds each of them with its reason.
    """
    if rejected <= share * seen:
        return
    raise DataError(
        f"{rejected} of {seen} rows of {source!r} are bad, more than the share of {share:g} that "
        f"--data.max_rejected_share allows: {most_frequent(kinds)}; {listed_in} holds each with "
        "its reason: mend them, or allow more."
    )


def most_frequent(kinds: Mapping[str, int]) -> str:
    """The three most frequent reasons with their counts, for a message."""
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    named = ", ".join(f"{count} because {kind}" for kind, count in ranked[:_NAMED])
    rest = sum(count for _, count in ranked[_NAMED:])
    return f"{named}, {rest} for other reasons" if rest else named
