"""What changed, by its kind, and the figures before and after."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from visual_r1.evaluation.metrics import Rate
from visual_r1.evaluation.samples import mean_pass_at_k
from visual_r1.evaluation.statistics import Interval
from visual_r1.grading import Rounding

EXAMPLES = 3
DROPPED = "dropped"
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Example:
    """One response whose verdict changed: where it is, the gold answer, and its own."""

    where: str
    gold: str
    answer: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of change: in which pass, from what to what, and whether a decision about the label
    or the grader made it. Reasons are those of the grader, empty where none was stored."""

    name: str
    before: str
    reason_before: str
    after: str
    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class Change:
    """How often a kind of change was met, and the first that were."""

    kind: Kind
    count: int
    examples: tuple[Example, ...]


@dataclass
class Changes:
    """Changes as they are met."""

    found: dict[Kind, list[Example]] = field(default_factory=dict[Kind, list[Example]])
    counts: dict[Kind, int] = field(default_factory=dict[Kind, int])
    other_reasons: int = 0
    """How often the verdict stayed and its reason did not."""

    def add(self, kind: Kind, example: Example) -> None:
        """One response; nothing is noted where its verdict stayed."""
        if kind.before == kind.after:
            self.other_reasons += kind.reason_before not in ("", kind.reason)
            return
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.found.setdefault(kind, [])
        if len(shown) < EXAMPLES:
            shown.append(example)

    def listed(self) -> tuple[Change, ...]:
        """The kinds, the most frequent first."""
        kinds = sorted(self.counts, key=lambda kind: (-self.counts[kind], str(kind)))
        return tuple(Change(kind, self.counts[kind], tuple(self.found[kind])) for kind in kinds)


def kind_of_reason(reason: str) -> str:
    """A reason without its particulars: what stands behind a colon names the one text."""
    return reason.partition(":")[0]


def shown(text: str | None) -> str | None:
    """An answer for a table, cut where it is long."""
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@dataclass(frozen=True, slots=True)
class Share:
    """`correct` of `n`, as a share with its 95 % interval: Wilson's, and of rollouts one over their
    groups, for the samples of a problem stand and fall together."""

    n: int
    correct: int
    value: float
    ci95: Interval

    @classmethod
    def of(cls, rate: Rate) -> "Share":
        """A rate with its interval."""
        return cls(rate.n, rate.correct, rate.value, rate.ci95)


@dataclass(frozen=True, slots=True)
class Figures:
    """What graded answers come to: a share for each pass with one answer a problem, and of the k
    samples a problem accuracy and pass@k with intervals over problems."""

    passes: Mapping[str, Share]
    k: int = 0
    sampled_n: int = 0
    sampled_accuracy: float | None = None
    sampled_accuracy_ci95: Interval | None = None
    pass_at_k: float | None = None
    pass_at_k_ci95: Interval | None = None


@dataclass
class Tally:
    """Answers as they are counted, once under one way of grading."""

    right: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    groups: dict[str, dict[tuple[int, int], list[int]]] = field(
        default_factory=dict[str, dict[tuple[int, int], list[int]]]
    )
    samples: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def one(self, name: str, *, right: bool) -> None:
        """The one answer of a pass to a problem."""
        counts = self.right.setdefault(name, [0, 0])
        counts[0] += right
        counts[1] += 1

    def of_group(self, name: str, group: tuple[int, int], *, right: bool) -> None:
        """One of the answers of a group, which is named by its step and number."""
        counts = self.groups.setdefault(name, {}).setdefault(group, [0, 0])
        counts[0] += 1
        counts[1] += right

    def several(self, rights: Sequence[bool]) -> None:
        """The samples of a problem."""
        if rights:
            self.samples.append((len(rights), sum(rights)))

    def figures(self, k: int) -> Figures:
        """What they come to."""
        passes = {name: Share.of(Rate(*counts)) for name, counts in self.right.items()}
        for name, groups in self.groups.items():
            n, correct = map(sum, zip(*groups.values(), strict=True))
            interval = mean_pass_at_k([(n, right) for n, right in groups.values()], 1).ci95
            passes[name] = Share(n, correct, correct / n, interval)
        if not self.samples:
            return Figures(passes)
        once, best = mean_pass_at_k(self.samples, 1), mean_pass_at_k(self.samples, max(k, 1))
        return Figures(passes, k, len(self.samples), once.value, once.ci95, best.value, best.ci95)


@dataclass
class Tallies:
    """Before, under the run's rounding, and after, under both."""

    before: Tally = field(default_factory=Tally)
    after: dict[Rounding, Tally] = field(
        default_factory=lambda: {"exact": Tally(), "rounded": Tally()}
    )


def merged(parts: Iterable[Sequence[Change]]) -> tuple[Change, ...]:
    """The changes of several files as those of one."""
    found = Changes()
    for change in (one for part in parts for one in part):
        found.counts[change.kind] = found.counts.get(change.kind, 0) + change.count
        there = found.found.setdefault(change.kind, [])
        there += change.examples[: EXAMPLES - len(there)]
    return found.listed()
