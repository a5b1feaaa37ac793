"""Datums: what `forward_backward` learns from.

With a prompt of P tokens (image tokens counted) and an answer of n tokens a_0 … a_{n-1}, the model
reads prompt + a_0 … a_{n-2}, T = P + n - 1 positions, and position i is scored on the token at
i + 1 of the whole sequence:

    position         0 … P-2            P-1   P    …   T-1
    reads            prompt, images     p     a_0  …   a_{n-2}
    target_tokens    0                  a_0   a_1  …   a_{n-1}
    logprobs         0                  q_0   q_1  …   q_{n-1}     of the sampler
    advantages       0                  A     A    …   A

Tinker's losses are plain sums over all T positions: what must not count has advantage 0.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import tinker

from visual_r1.policy.policy import Rollout, RolloutGroup

Floats = npt.NDArray[np.float32]


def datum(group: RolloutGroup, rollout: Rollout, advantage: float) -> tinker.Datum:
    """The training example of one rollout with at least one token; arrays of T (see above)."""
    return datum_of(group.prompt, rollout.tokens, rollout.logprobs, advantage)


def datum_of(
    prompt: tinker.ModelInput,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    advantage: float,
) -> tinker.Datum:
    """The training example of an answer of n >= 1 tokens with the sampler's n log-probabilities."""
    silent = prompt.length - 1
    answer = len(tokens)
    chunks = list(prompt.chunks)
    if answer > 1:
        chunks.append(tinker.EncodedTextChunk(tokens=list(tokens[:-1])))
    return tinker.Datum(
        model_input=tinker.ModelInput(chunks=chunks),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(
                np.array([0] * silent + list(tokens), dtype=np.int64)
            ),
            "logprobs": _floats([0.0] * silent + list(logprobs)),
            "advantages": _floats([0.0] * silent + [advantage] * answer),
        },
    )


def answer_part(group: RolloutGroup, values_T: Floats) -> Floats:
    """The n values of the answer's tokens out of the T of a datum."""
    return values_T[group.prompt.length - 1 :]


def with_prompt_logprobs(
    datums: Sequence[tinker.Datum], groups: Sequence[RolloutGroup], learner: Sequence[Floats]
) -> list[tinker.Datum]:
    """The datums with the learner's own log-probabilities on their prompt positions.

    A loss with a term in (logp - q)² counts prompt positions too, whatever their advantage. With
    q equal to the learner's logp there, that term and its gradient are zero. `groups` and
    `learner` go with `datums` one by one.
    """
    return [
        _with_prompt_logprobs(one, group.prompt.length - 1, logprobs_T)
        for one, group, logprobs_T in zip(datums, groups, learner, strict=True)
    ]


def _with_prompt_logprobs(one: tinker.Datum, silent: int, logprobs_T: Floats) -> tinker.Datum:
    filled = one.loss_fn_inputs["logprobs"].to_numpy().copy()
    filled[:silent] = logprobs_T[:silent]
    inputs = {**one.loss_fn_inputs, "logprobs": tinker.TensorData.from_numpy(filled)}
    return replace(one, loss_fn_inputs=inputs)


def _floats(values: Sequence[float]) -> tinker.TensorData:
    return tinker.TensorData.from_numpy(np.array(values, dtype=np.float32))
