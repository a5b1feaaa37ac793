"""Made-up rollouts."""

from collections.abc import Mapping, Sequence

import tinker

from visual_r1.config import RewardSection
from visual_r1.data.problem import Problem
from visual_r1.grading import Grade, Verdict
from visual_r1.policy.policy import Rollout, RolloutGroup
from visual_r1.rewards import Part, Scored

RIGHT, WRONG, GAVE_UP = Grade("right", ""), Grade("wrong", ""), Grade("gave_up", "too deep")
GRADES: Mapping[Verdict, Grade] = {"right": RIGHT, "wrong": WRONG, "gave_up": GAVE_UP}

# 3 text tokens, an image of 4, 2 text tokens.
PROMPT = tinker.ModelInput(
    chunks=[
        tinker.EncodedTextChunk(tokens=[11, 12, 13]),
        tinker.types.ImageChunk(data=b"png", format="png", expected_tokens=4),
        tinker.EncodedTextChunk(tokens=[14, 15]),
    ]
)


def rollout(
    reward: float = 1.0,
    verdict: Verdict = "right",
    *,
    group: int = 0,
    sample: int = 0,
    tokens: Sequence[int] = (21, 22, 23),
    stop_reason: str = "stop",
    components: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Rollout:
    values = components or {"accuracy": reward, "format": 1.0}
    weights = RewardSection().weights | (weights or {})
    parts = {name: Part.of(weights[name], value) for name, value in values.items()}
    return Rollout(
        problem_id=f"p{group}",
        group=group,
        sample=sample,
        tokens=tuple(tokens),
        logprobs=tuple(-0.5 - 0.25 * position for position in range(len(tokens))),
        response="<answer>5</answer>",
        stop_reason=stop_reason,
        scored=Scored(reward, parts, GRADES[verdict]),
    )


def group_of(*rollouts: Rollout, failed: int = 0) -> RolloutGroup:
    problem = Problem(id="p0", images=(b"png",), problem="<image>Find x.", answer="5")
    return RolloutGroup(problem, PROMPT, rollouts, failed)
