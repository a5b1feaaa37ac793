"""What the loss of a batch is divided by, through the advantages.

Tinker's losses are plain sums over tokens. With D responses of n_1 … n_D tokens in the batch of one
optimizer step, N = Σ n_i and L = `sampling.max_new_tokens`, each token of response i counts

    none        1             the sum as it is
    token       1 / N         the mean over all tokens (DAPO, arXiv:2503.14476, section 3.3)
    sequence    1 / (D n_i)   the mean over responses of their means (GRPO, arXiv:2402.03300)
    constant    1 / (D L)     a constant length, so that length has no say (Dr. GRPO,
                              arXiv:2503.20783)

Adam does not see a constant factor, but a gradient clip does; and `sequence` makes the tokens of
short responses count more.
"""

from collections.abc import Sequence
from typing import Literal

Normalization = Literal["none", "token", "sequence", "constant"]


def token_shares(lengths_D: Sequence[int], how: Normalization, max_tokens: int) -> list[float]:
    """What each token of each of the D responses counts; see above."""
    responses = len(lengths_D)
    match how:
        case "none":
            return [1.0] * responses
        case "token":
            return [1.0 / sum(lengths_D)] * responses
        case "sequence":
            return [1.0 / (responses * length) for length in lengths_D]
        case "constant":
            return [1.0 / (responses * max_tokens)] * responses
