"""How often a step has its problems asked and its samples read, scored and learnt from, at most.

What a forecast of a step's tokens multiplies by; tests/protocol/test_foretold_step.py holds it
against what real steps count.
"""

from dataclasses import dataclass

from visual_r1.config import RunConfig
from visual_r1.policy.second_pass import MOST_MOVES
from visual_r1.rl.losses import loss_of


@dataclass(frozen=True, slots=True)
class StepPasses:
    """Of a step that samples: `rounds` batches of problems, and of each sample so many `scans` that
    are read (the second pass, and again with its numbers moved).

    `question_only` and `scored` say whether each problem is asked without its image as well, and
    whether each sample is scored by the base model. `learnt` is how often the positions of a datum
    go through the learner, forward or backward: all are billed as training.
    """

    rounds: int
    scans: int
    question_only: bool
    scored: bool
    learnt: int


def step_passes(config: RunConfig) -> StepPasses:
    """Those of a step of `config`; a supervised one (`sft.responses`) learns, and does no more."""
    algorithm, second = config.algorithm, config.second_pass
    if config.sft.responses is not None:  # its loss is cross entropy, whatever the policy loss is
        return StepPasses(0, 0, question_only=False, scored=False, learnt=algorithm.epochs)
    # The correction's forward is made once, ahead of all minibatches and epochs.
    ahead = config.pipeline.correction != "none"
    return StepPasses(
        rounds=1 + algorithm.dynamic_rounds,
        scans=second.enabled * (1 + MOST_MOVES * second.moved_numbers),
        question_only=second.enabled and second.minus_question_only,
        scored=algorithm.kl_coefficient > 0,
        learnt=ahead + algorithm.epochs * loss_of(config.train, algorithm).passes,
    )
