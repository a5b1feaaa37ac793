"""How much memory there is to compute in: what the device says, and no constant."""

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """What is left: of a card also what torch's allocator holds without use."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + held


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that there was no memory: CUDA's has a type, the CPU's a sentence."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def hand_back(device: torch.device) -> None:
    """Give the system what torch holds and does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
