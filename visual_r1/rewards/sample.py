"""One sample as a reward sees it, and the reward that it gets: a sum of named parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from visual_r1.data.problem import Problem
from visual_r1.grading import Grade


@dataclass(frozen=True, slots=True)
class RewardInput:
    """One sample.

    Args:
        problem: what was asked.
        response: what the model wrote, without its stop token.
        truncated: it ran out of tokens.
        seed: a stable hash of the sample's place; whoever needs chance draws from it.
        opens_think: the template had already written `<think>`.
        tags: those that the template asks for, in their order.
        tokens: of the response, with the stop token that ended it.
        max_tokens: how many it might have had; 0 where nobody knows.
    """

    problem: Problem
    response: str
    truncated: bool = False
    seed: int = 0
    opens_think: bool = False
    tags: Sequence[str] = ("think", "answer")
    tokens: tuple[int, ...] = ()
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What one component gives to a reward.

    `value` is the component itself, as metrics and rollouts report it; `worth` is what it adds to
    the reward. That is `weight · value`, except for a second pass that is not right: its value is
    0, and it costs the penalty.
    """

    value: float
    weight: float
    worth: float

    @classmethod
    def of(cls, weight: float, value: float) -> "Part":
        """A component that adds `weight · value`."""
        return cls(value, weight, weight * value)


@dataclass(frozen=True, slots=True)
class Scored:
    """A sample's reward and the parts that it is the sum of, by the name of the component.

    A component without a weight is a part as well, worth nothing. Where the user's own function
    failed, the grader or a component of ours, `failure` says how and `reward` is the sum without
    it: nothing to learn from, the sample leaves its group.
    """

    reward: float
    parts: Mapping[str, Part]
    grade: Grade
    failure: str = ""

    @property
    def components(self) -> dict[str, float]:
        """Every component by name, unweighted."""
        return {name: part.value for name, part in self.parts.items()}

    def plus(self, name: str, part: Part) -> "Scored":
        """The same sample with one part more, on top of the reward so far."""
        return replace(self, reward=self.reward + part.worth, parts={**self.parts, name: part})
