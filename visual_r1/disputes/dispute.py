"""A label in dispute, as it is found, listed as JSON, and shown."""

from dataclasses import dataclass

from visual_r1.data.problem import Split
from visual_r1.runs.decisions import Decision


@dataclass(frozen=True, slots=True)
class Dispute:
    """A problem on which a policy agrees on another answer than the gold one.

    Of n answers `right` are the gold one and `agreeing` are `answer`, which the grader takes for
    the same; `others` is how many different wrong ones there are. `p_value` and `expected` are
    those of `agreement`, None where too few problems were answered to say. `seen_in` names the
    evaluations, or rollouts. `decision` is what a person decided, None where nobody has. `content`
    and `gold` are what `record` asks for.
    """

    problem_id: str
    split: Split
    content: str
    question: str
    gold: str
    answer: str
    agreeing: int
    right: int
    n: int
    others: int
    p_value: float | None
    expected: float | None
    seen_in: tuple[str, ...]
    decision: Decision | None = None
