"""What of a rollout goes to the learner: the arrays of a datum, and its provenance.

With a prompt of P tokens (image tokens counted) and an answer of n tokens
a_0 … a_{n-1}, the model reads prompt + a_0 … a_{n-2}, T = P + n - 1 positions, and position i is
scored on the token at i + 1 of the whole sequence:

    position         0 … P-2            P-1   P    …   T-1
    reads            prompt, images     p     a_0  …   a_{n-2}
    target_tokens    0                  a_0   a_1  …   a_{n-1}
    logprobs         0                  q_0   q_1  …   q_{n-1}     of the sampler
    advantages       0                  A     A    …   A
    a mask           0                  1     1    …   1      where the loss reads one

Tinker's losses are plain sums over all T positions: what must not count has advantage 0.

**Provenance.** Where the loss needs it (stable_reinforce), a datum names the sampled sequence
behind each place of what is read (P places of its prompt, n - 1 of its tokens) and of the targets
(P - 1 and n). A server lets a session train on its own samples alone. So a chunk samples and learns
in one session, and a chunk that is begun again samples again.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tinker

from visual_r1.rl.divergence import Floats


def datum(
    prompt: tinker.ModelInput,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    advantage: float | Sequence[float],
    *,
    mask: str | None = None,
    sequence_id: str | None = None,
) -> tinker.Datum:
    """The training example of an answer of n >= 1 tokens, with the n log-probabilities that the
    ratio is taken to (the sampler's, as a rule) and one advantage for all of them, or n.

    Its arrays have T entries each, see above. `mask` is the name of the input that is 1 on the
    answer's tokens, where there is to be one; `sequence_id` names what was sampled, where that is
    to be its provenance.
    """
    silent = prompt.length - 1
    answer = len(tokens)
    chunks = list(prompt.chunks)
    if answer > 1:
        chunks.append(tinker.EncodedTextChunk(tokens=list(tokens[:-1])))
    inputs = {
        "target_tokens": _behind(silent, tokens, answer, np.int64),
        "logprobs": _behind(silent, logprobs, answer),
        "advantages": _behind(silent, advantage, answer),
    }
    if mask is not None:
        inputs[mask] = _behind(silent, 1.0, answer)
    made = tinker.Datum(tinker.ModelInput(chunks=chunks), inputs)
    if sequence_id is None:
        return made
    return made.with_provenance(
        _spans(sequence_id, 0, prompt.length, answer - 1),
        _spans(sequence_id, 1, silent, answer),
    )


def _spans(
    sequence_id: str, offset: int, prompt: int, sampled: int
) -> list[tinker.PromptProvenanceSpan | tinker.SampledProvenanceSpan]:
    """So many places of the sequence's prompt from `offset` on, and so many of its tokens."""
    of_prompt = tinker.PromptProvenanceSpan(sequence_id=sequence_id, offset=offset, length=prompt)
    of_answer = tinker.SampledProvenanceSpan(sequence_id=sequence_id, length=sampled)
    return [one for one in (of_prompt, of_answer) if one.length]


def answer_part(prompt: tinker.ModelInput, values_T: Floats) -> Floats:
    """The n values of the answer's tokens out of the T of a datum."""
    return values_T[prompt.length - 1 :]


def with_prompt_logprobs(
    datums: Sequence[tinker.Datum],
    prompts: Sequence[tinker.ModelInput],
    learner: Sequence[Floats],
) -> list[tinker.Datum]:
    """The datums with the learner's own log-probabilities on their prompt positions.

    A loss with a term in (logp - q)² counts prompt positions too, whatever their advantage. With
    q equal to the learner's logp there, that term and its gradient are zero. `prompts` and
    `learner` go with `datums` one by one.
    """
    found: list[tinker.Datum] = []
    for one, prompt, logprobs_T in zip(datums, prompts, learner, strict=True):
        silent = prompt.length - 1
        filled = one.loss_fn_inputs["logprobs"].to_numpy().copy()
        filled[:silent] = logprobs_T[:silent]
        inputs = {**one.loss_fn_inputs, "logprobs": tinker.TensorData.from_numpy(filled)}
        found.append(replace(one, loss_fn_inputs=inputs))
    return found


def _behind(
    silent: int,
    values: Sequence[float] | float,
    answer: int,
    kind: type[np.float32 | np.int64] = np.float32,
) -> tinker.TensorData:
    """So many zeros, and behind them a value for each token of the answer."""
    array_T = np.zeros(silent + answer, kind)
    array_T[silent:] = values
    return tinker.TensorData.from_numpy(array_T)
