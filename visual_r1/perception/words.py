"""Where a policy fails, in words: a line for a terminal, sentences for a page."""

from visual_r1.perception.changes import Change, Changes
from visual_r1.perception.judging import KINDS, MEANINGS, Kind
from visual_r1.perception.shares import Failures
from visual_r1.wording import p_value_in_words, percent, percent_range, points, points_range

_SHORT: dict[Kind, str] = {
    "right": "right",
    "lucky": "right by luck",
    "misreasoned": "reasoned wrongly",
    "misread": "misread",
    "both": "both",
    "form": "no answer",
    "untold": "cannot be told",
}
"""The kinds in a word or two, where there is no room for `MEANINGS`."""


def short(kind: Kind) -> str:
    """A kind in a word or two."""
    return _SHORT[kind]


def in_a_line(found: Failures) -> str:
    """What an evaluation failed at, by how often, each with its interval."""
    failed: list[Kind] = [kind for kind in KINDS if kind != "right" and found.kinds[kind].count]
    failed.sort(key=lambda kind: -found.kinds[kind].count)
    parts = [
        f"{MEANINGS[kind]} {percent(share.value)} [{percent_range(share.ci95)}]"
        for kind in failed
        for share in [found.kinds[kind]]
    ]
    said = "; ".join(parts) or "in nothing"
    return f"where it fails: {said}." + (f" {found.missing}" if found.missing else "")


def sentences(changes: Changes) -> list[str]:
    """What changed in reading and in reasoning, and what the problems gained had failed at."""
    said: list[str] = []
    if changes.read.n:
        said.append(f"The figure was read rightly {_of(changes.read)}.")
    if changes.reasoned.n:
        said.append(
            f"The right conclusion was drawn from what was read, rightly or not, "
            f"{_of(changes.reasoned)}."
        )
    gained = sum(changes.mended.values())
    if gained:
        parts = [
            f"{count} had been {_HAD_BEEN[kind]}"
            for kind, count in sorted(changes.mended.items(), key=lambda one: -one[1])
        ]
        said.append(
            f"Of the {gained} problems gained, {_listed(parts)}."
            if len(parts) > 1
            else f"All {gained} problems gained had been {_HAD_BEEN[next(iter(changes.mended))]}."
        )
    return said


_HAD_BEEN: dict[Kind, str] = {
    "misreasoned": "read rightly and reasoned wrongly",
    "misread": "misread",
    "both": "misread and reasoned wrongly",
    "form": "without an answer that can be compared",
    "untold": "wrong for a reason that cannot be told",
}


def _of(change: Change) -> str:
    found = (
        f"in {percent(change.before)} of {change.n} problems before and in "
        f"{percent(change.after)} after ({points(change.delta)} points, 95% interval "
        f"{points_range(change.delta_ci95)}, {p_value_in_words(change.p_value)})"
    )
    return found if change.distinguishable else f"{found}: not distinguishable"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
