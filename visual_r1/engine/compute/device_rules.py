"""What is done differently on a CPU and on a card, in one place.

A CPU computes in float32, and no result depends on what else is computed (see `batching`). A card
computes in bfloat16 over float32 masters of the LoRA, in batches as large as its memory takes, and
does nothing that the loss does not need. Code asks the rules and never the device, so the tests
let a CPU compute by the rules of a card, in whatever memory they say that it has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

CARD_SHARE = 0.7
"""Of the free memory, what a plan may use: the rest is for what it does not count, and for holes
between the pieces that the allocator has handed out."""


@dataclass(frozen=True)
class DeviceRules:
    """The rules of a kind of device."""

    dtype: torch.dtype
    """Of the base model."""
    independent: bool
    """Whether no result may depend on what is computed together."""
    training_places: int
    """Places of a minibatch, at most; on the CPU small ones are the faster: they stay in cache."""
    group_places: int
    """A group up to so many places is not taken apart, so that its prompt is computed once."""
    tower_patches: int
    """Patches in one run of the vision tower, at most."""
    logits_at_once: int
    """Logits that are held at a time, at most; more rows are computed in pieces."""
    scores_all: bool
    """Whether a training pass also gives log-probabilities where the loss does not bear."""
    free_bytes: Callable[[], int] | None = None
    """Memory that a plan may count on; None does not ask, as on a CPU."""


CPU_RULES = DeviceRules(
    dtype=torch.float32,
    independent=True,
    training_places=2560,
    group_places=6144,
    tower_patches=4096,
    logits_at_once=2**25,
    scores_all=True,
)

CARD_RULES = DeviceRules(
    dtype=torch.bfloat16,
    independent=False,
    training_places=32768,
    group_places=32768,
    tower_patches=65536,
    logits_at_once=2**31,
    scores_all=False,
)


def rules_of(device: torch.device) -> DeviceRules:
    """The rules by which a device computes."""
    if device.type != "cuda":
        return CPU_RULES
    return replace(CARD_RULES, free_bytes=lambda: free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """What a card has left, what the allocator holds without use included."""
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + held
