"""How often each kind of failure occurs in an evaluation, with intervals."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from visual_r1.evaluation.metrics import Share
from visual_r1.perception.judging import KINDS, Judgement, Kind


@dataclass(frozen=True, slots=True)
class Failures:
    """Where a policy failed, over the n problems that it answered.

    `kinds` are the shares of all n; they add up to 1. `read` is how often the figure was read
    rightly where that can be told, `reasoned` how often the right conclusion was drawn from what
    was read, where that can be told. `renamed` of those that were read rightly call values by other
    names. `forms` says what the form lacked and `untold` why nothing can be told, by how often.
    `bases` counts what was known: the figures' facts, answers from the description alone, neither.
    `missing` says in a sentence what was not there to look at, empty where all was.
    """

    name: str
    n: int
    kinds: Mapping[Kind, Share]
    read: Share
    reasoned: Share
    renamed: int
    forms: Mapping[str, int]
    untold: Mapping[str, int]
    bases: Mapping[str, int]
    by_family: Mapping[str, Mapping[Kind, int]]
    judgements: Mapping[str, Judgement]
    missing: str = ""

    @property
    def is_told(self) -> bool:
        """Whether anything is known by which reading and reasoning can be told apart."""
        return "facts" in self.bases or "passes" in self.bases


def counted(
    name: str,
    judgements: Mapping[str, Judgement],
    families: Mapping[str, str],
    missing: str = "",
) -> Failures:
    """The shares of what was judged, by the problem's id, in the evaluation `name`.

    `families` are those of the problems.
    """
    found = list(judgements.values())
    by_family: dict[str, Counter[Kind]] = {}
    for id, one in judgements.items():
        by_family.setdefault(families[id], Counter())[one.kind] += 1
    read = [one.read for one in found if one.read is not None]
    reasoned = [one.reasoned for one in found if one.reasoned is not None]
    return Failures(
        name=name,
        n=len(found),
        kinds={kind: Share.of(one.kind == kind for one in found) for kind in KINDS},
        read=Share.of(read),
        reasoned=Share.of(reasoned),
        renamed=sum(one.renamed for one in found),
        forms=dict(Counter(one.why for one in found if one.kind == "form").most_common()),
        untold=dict(Counter(one.why for one in found if one.kind == "untold").most_common()),
        bases=dict(Counter(one.basis for one in found).most_common()),
        by_family={family: dict(by_family[family]) for family in sorted(by_family)},
        judgements=judgements,
        missing=missing,
    )
