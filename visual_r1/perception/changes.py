"""What changed between two evaluations of the same problems: which kind of failure was mended.

Each kind is a yes or no of each problem that both evaluations answered, so each change is a paired
one: its interval is Newcombe's (method 10), its test the exact McNemar. The kinds that occur are
looked at together, so each has Holm's p-value beside its own.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from visual_r1.errors import DataError
from visual_r1.evaluation.statistics import (
    Interval,
    Pairs,
    distinguishable,
    exact_mcnemar,
    holm,
    paired_difference_ci,
)
from visual_r1.perception.judging import KINDS, Judgement, Kind
from visual_r1.perception.shares import Failures


@dataclass(frozen=True, slots=True)
class Change:
    """A share of the same n problems before and after, with its paired difference.

    `came` of the problems are of it after and were not before, `went` the other way round. `p_holm`
    is the p-value among those of all kinds; of what is not one of several it is `p_value`.
    """

    n: int
    before: float
    after: float
    delta: float
    delta_ci95: Interval
    p_value: float
    p_holm: float
    came: int
    went: int

    @property
    def distinguishable(self) -> bool:
        """Whether the difference counts as seen: p under 0.05, among all."""
        return distinguishable(self.p_holm)

    @classmethod
    def of(cls, pairs: Pairs) -> "Change":
        """The change of what was counted."""
        p_value = exact_mcnemar(pairs.gained, pairs.lost)
        return cls(
            n=pairs.n,
            before=pairs.before,
            after=pairs.after,
            delta=pairs.delta,
            delta_ci95=paired_difference_ci(pairs),
            p_value=p_value,
            p_holm=p_value,
            came=pairs.gained,
            went=pairs.lost,
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """From one evaluation to another: each kind, reading and reasoning, and what became of what.

    `read` and `reasoned` are over the problems of which it can be told both times. `moves` counts
    the problems by their kind before and after.
    """

    before: str
    after: str
    n: int
    kinds: Mapping[Kind, Change]
    read: Change
    reasoned: Change
    moves: Mapping[tuple[Kind, Kind], int]

    @property
    def mended(self) -> Mapping[Kind, int]:
        """How many problems of each kind are right after and were not right before."""
        found: dict[Kind, int] = {}
        for (before, after), count in self.moves.items():
            if after in ("right", "lucky") and before not in ("right", "lucky"):
                found[before] = found.get(before, 0) + count
        return found


def compared(before: Failures, after: Failures) -> Changes:
    """What changed from `before` to `after`. Raises `DataError` where no problem is in both."""
    ids = [id for id in before.judgements if id in after.judgements]
    if not ids:
        raise DataError(
            f"the evaluations {before.name!r} and {after.name!r} have no problem in common, so "
            "nothing can be compared: evaluate both on the same dataset."
        )
    old = [before.judgements[id] for id in ids]
    new = [after.judgements[id] for id in ids]
    kinds: dict[Kind, Change] = {
        kind: Change.of(
            Pairs.count([one.kind == kind for one in old], [one.kind == kind for one in new])
        )
        for kind in KINDS
    }
    occurring: list[Kind] = [
        kind for kind, change in kinds.items() if change.before or change.after
    ]
    for kind, p_holm in zip(
        occurring, holm([kinds[one].p_value for one in occurring]), strict=True
    ):
        kinds[kind] = replace(kinds[kind], p_holm=p_holm)
    return Changes(
        before=before.name,
        after=after.name,
        n=len(ids),
        kinds=kinds,
        read=_told(old, new, lambda one: one.read),
        reasoned=_told(old, new, lambda one: one.reasoned),
        moves=Counter((one.kind, other.kind) for one, other in zip(old, new, strict=True)),
    )


def _told(
    old: list[Judgement], new: list[Judgement], of: Callable[[Judgement], bool | None]
) -> Change:
    """The change of what can be told of a problem both times."""
    pairs = [(of(one), of(other)) for one, other in zip(old, new, strict=True)]
    told = [(one, other) for one, other in pairs if one is not None and other is not None]
    return Change.of(Pairs.count([one for one, _ in told], [other for _, other in told]))
