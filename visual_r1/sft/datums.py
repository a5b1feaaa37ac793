"""Responses as training examples for cross_entropy.

The layout is that of `rl.learning`: with a prompt of P tokens and a response of n tokens the model
reads T = P + n - 1 positions, and position i is scored on the token at i + 1. Tinker's
cross_entropy is a plain sum,

    L = -Σ_i weights_i · log p(target_i),

so the weights say what is learnt: 0 on the P - 1 positions of the prompt and its images, the
response's share on its n tokens.
"""

from collections.abc import Sequence

import numpy as np
import tinker


def response_datum(
    prompt: tinker.ModelInput, tokens: Sequence[int], weight: float = 1.0
) -> tinker.Datum:
    """The example of a response of n >= 1 tokens; its two arrays have T = P + n - 1 entries."""
    silent = prompt.length - 1
    chunks = list(prompt.chunks)
    if len(tokens) > 1:
        chunks.append(tinker.EncodedTextChunk(tokens=list(tokens[:-1])))
    return tinker.Datum(
        model_input=tinker.ModelInput(chunks=chunks),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(
                np.array([0] * silent + list(tokens), dtype=np.int64)
            ),
            "weights": tinker.TensorData.from_numpy(
                np.array([0.0] * silent + [weight] * len(tokens), dtype=np.float32)
            ),
        },
    )
