"""What is done differently on a CPU and on a card, in one place.

A CPU computes in float32, and no result depends on what else is computed (see `batching`). A card
computes in bfloat16 over float32 masters of the LoRA, in batches as large as its memory takes, and
does nothing that the loss does not need. Code asks the rules and not the device, but for kernels
that only one of them has, so the tests let a CPU compute by the rules of a card, in whatever memory
they say that it has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from visual_r1.engine.compute.batching import ROWS
from visual_r1.engine.compute.cache import BLOCK
from visual_r1.engine.compute.memory import free_bytes

TRAINING_SHARE = 0.7
"""Of the free memory, what a plan of training may use: the rest is for what it does not count, and
for holes between the pieces that the allocator has handed out."""


@dataclass(frozen=True)
class DeviceRules:
    """The rules of a kind of device."""

    dtype: torch.dtype
    """Of the base model."""
    independent: bool
    """Whether no result may depend on what is computed together."""
    training_places: int
    """Places of a minibatch, at most; on the CPU small ones are the faster: they stay in cache."""
    training_block: int
    """Sequences that are trained are padded, where attention sees them, to multiples of so many
    places: few on a CPU, more on a card, where each width is calls of its own."""
    group_places: int
    """A group up to so many places is not taken apart, so that its prompt is computed once."""
    tower_patches: int
    """Patches in one run of the vision tower, at most."""
    logits_at_once: int
    """Logits that are held at a time, at most; more rows are computed in pieces."""
    scores_all: bool
    """Whether a training pass also gives log-probabilities where the loss does not bear."""
    rows_at_once: int
    """Samples that decode together, at most; on a CPU more of them leave its caches."""
    check_every: int
    """Tokens between two looks at what was sampled: on a card each look waits for all that was
    queued. It divides `sampling.NUMBERS_AT_ONCE`."""
    prompt_block: int
    """Prompts are padded to multiples of so many places (see `batching.prompt_bucket`): few on a
    CPU, where padding costs as much as what it pads, more on a card, where a pass costs."""
    cache_block: int
    """Places by which a step comes to look at more, a multiple of `cache.BLOCK`: on a card each
    shape is a graph to record."""
    sampling_share: float
    """Of the free memory, what samples may take: in a CPU's other programs live too, on a card a
    step needs room beside what it keeps."""
    copied_bytes: int = 0
    """Weights of a text stack up to so many are held a second time for sampling, as its products
    read them fastest and with an adapter added to them."""
    free_bytes: Callable[[], int] | None = None
    """Memory that a plan may count on; None does not ask, as on a CPU."""


CPU_RULES = DeviceRules(
    dtype=torch.float32,
    independent=True,
    training_places=2560,
    training_block=1,
    group_places=6144,
    tower_patches=4096,
    logits_at_once=2**25,
    scores_all=True,
    rows_at_once=256,
    check_every=1,
    prompt_block=ROWS,
    cache_block=BLOCK,
    sampling_share=0.5,
    copied_bytes=2**28,
)

CARD_RULES = DeviceRules(
    dtype=torch.bfloat16,
    independent=False,
    training_places=32768,
    training_block=128,
    group_places=32768,
    tower_patches=65536,
    logits_at_once=2**31,
    scores_all=False,
    rows_at_once=2048,
    check_every=16,
    prompt_block=128,
    cache_block=256,
    sampling_share=0.85,
)


def rules_of(device: torch.device) -> DeviceRules:
    """The rules by which a device computes."""
    if device.type != "cuda":
        return CPU_RULES
    return replace(CARD_RULES, free_bytes=lambda: free_bytes(device))
