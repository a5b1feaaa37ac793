"""How much memory there is to compute in: what the device says, and no constant."""

import psutil
import torch

_SPARE = {"cpu": 0.5, "cuda": 0.85}
"""The share of free memory that may be planned with: on a CPU other programs live in it too, on a
card a step needs room beside what it keeps."""


def plannable_bytes(device: torch.device) -> int:
    """Bytes that something may be planned to take: of what is free, and of what torch has spare."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + held) * _SPARE["cuda"])
    return int(psutil.virtual_memory().available * _SPARE["cpu"])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that there was no memory: CUDA's has a type, the CPU's a sentence."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def hand_back(device: torch.device) -> None:
    """Give the system what torch holds and does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
