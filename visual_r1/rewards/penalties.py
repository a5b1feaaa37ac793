"""Components that take away: each in [-1, 0], so that a positive weight punishes.

    length       DAPO's soft overlong punishment (arXiv:2503.14476, section 3.4)
    truncation   -1 for a response that ran out of tokens
    repetition   minus the share of n-grams of tokens that stood before (see below)

All count tokens as the sampler drew them, so that text without spaces hides nothing.
"""

from collections.abc import Sequence


def length_penalty(tokens: int, max_tokens: int, buffer: float) -> float:
    """DAPO's soft overlong punishment of a response of `tokens` tokens, with B = buffer · max:

        0                              up to max - B
        ((max - B) - tokens) / B       above it, down to -1 at max
        -1                             from max on

    Args:
        tokens: length of the response, its stop token included.
        max_tokens: how long a response may be (`sampling.max_new_tokens`); 0 where nobody
            knows, and then there is no punishment.
        buffer: the share of `max_tokens` over which the punishment grows, in (0, 1]; DAPO has
            4,096 of 20,480, a fifth.
    """
    if max_tokens <= 0:
        return 0.0
    room = buffer * max_tokens
    over = tokens - (max_tokens - room)
    return -min(1.0, over / room) if over > 0 else 0.0


def truncation_penalty(truncated: bool) -> float:
    """-1 where the response ended because it was too long, else 0."""
    return -1.0 if truncated else 0.0


def repetition_penalty(tokens: Sequence[int], ngram: int) -> float:
    """Minus the share of the response's n-grams that stood in it before.

        -(1 - distinct / all)      over the len(tokens) - ngram + 1 n-grams; 0 where there is none

    "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, appendix C.2) punishes each
    token of a repeated n-gram, n = 40, where it stands. A reward is one number a response, so
    this is their sum as a share, as in Open-R1's `get_repetition_penalty_reward`, over tokens.
    """
    grams = [tuple(tokens[start : start + ngram]) for start in range(len(tokens) - ngram + 1)]
    return -(1.0 - len(set(grams)) / len(grams)) if grams else 0.0
