"""How fast the work could be: what the machine can do, and what the work must do.

    python -m beside.floors DEVICE THREADS          # the machine's rates, as JSON

A floor is the larger of two times: that of moving the bytes that must be moved, at the rate of a
copy, and that of the products that must be computed, at the rate of a large product. Nothing can be
below it; how far above it something is says what is left to gain.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beside.work import Prompt


@dataclass(frozen=True)
class Rates:
    """Of the machine: bytes moved a second by a copy (read and written), and operations a second
    of a large matrix product, a multiplication and an addition being two."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True)
class Costs:
    """Of a network: weights of the text layers that a token meets, and all of them; of the head;
    of the vision tower that a patch meets; bytes of a place in the cache; attention's width."""

    active: int
    body: int
    head: int
    tower: int
    cache_bytes: int
    attention: int
    """Layers x heads x head size: a query costs 4 operations of these for each place it reads."""
    bytes_per_weight: int
    merge: int = 4
    """Patches in a visual token."""


def rates_of(device: str, threads: int, environment: dict[str, str]) -> Rates:
    """Measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "beside.floors", device, str(threads)],
        capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return Rates(**json.loads(done.stdout))


def costs_of(folder: str, bytes_per_weight: int) -> Costs:
    """Read from the configuration of a Qwen3-VL, with experts or without."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    hidden, layers, size = text["hidden_size"], text["num_hidden_layers"], text["head_dim"]
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    attention = 2 * hidden * (heads + kv_heads) * size
    # As published, and as transformers writes it.
    if experts := text.get("num_experts") or text.get("num_local_experts"):
        expert = 3 * hidden * text["moe_intermediate_size"]
        active = text["num_experts_per_tok"] * expert + hidden * experts
        whole = experts * expert
    else:
        active = whole = 3 * hidden * text["intermediate_size"]
    wide, deep = vision["hidden_size"], vision["depth"]
    block = 4 * wide * wide + 2 * wide * vision["intermediate_size"]
    merged = wide * vision["spatial_merge_size"] ** 2
    merger = merged * merged + merged * hidden
    mergers = 1 + len(vision["deepstack_visual_indexes"])
    # A merger meets a token, not a patch: a quarter as often.
    tower = deep * block + mergers * merger // vision["spatial_merge_size"] ** 2
    return Costs(
        active=layers * (attention + active),
        body=layers * (attention + whole),
        head=hidden * text["vocab_size"],
        tower=tower,
        cache_bytes=2 * layers * kv_heads * size * bytes_per_weight,
        attention=layers * heads * size,
        bytes_per_weight=bytes_per_weight,
        merge=vision["spatial_merge_size"] ** 2,
    )


def prefill_floor(costs: Costs, rates: Rates, prompts: Sequence[Prompt]) -> float:
    """Seconds to read each prompt once, its images through the tower."""
    patches = sum(costs.merge * part.visual_tokens for one in prompts for part in one.parts)
    places = sum(one.length for one in prompts)
    reading = 4 * costs.attention * sum(one.length**2 / 2 for one in prompts)
    flops = 2 * costs.active * places + 2 * costs.tower * patches + reading
    return flops / rates.flops_per_s


def decode_step_floor(costs: Costs, rates: Rates, rows: int, places: float) -> float:
    """Seconds of one token for each of `rows` whose cache holds `places` on average.

    All weights are read, of experts as many as so many rows can meet, and each row's own cache.
    """
    met = min(costs.body, costs.active * rows)
    moved = costs.bytes_per_weight * (met + costs.head) + rows * places * costs.cache_bytes
    flops = 2 * rows * (costs.active + costs.head) + 4 * costs.attention * rows * places
    return max(moved / rates.bytes_per_s, flops / rates.flops_per_s)


def sampling_floor(
    costs: Costs, rates: Rates, prompts: Sequence[Prompt], group: int, tokens: int
) -> float:
    """Seconds to answer each prompt `group` times with `tokens` tokens."""
    mean = statistics.mean(one.length for one in prompts) + tokens / 2
    step = decode_step_floor(costs, rates, len(prompts) * group, mean)
    return prefill_floor(costs, rates, prompts) + (tokens - 1) * step


def training_floor(
    costs: Costs,
    rates: Rates,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Sequence[int]]],
) -> float:
    """Seconds of forward and backward of a LoRA: each prompt once for its group, logits where the
    loss bears on them, nothing computed twice. Of the base's weights no gradient is taken, so a
    place costs 4 operations a weight."""
    patches = sum(costs.merge * part.visual_tokens for one in prompts for part in one.parts)
    bearing = sum(len(one) for group in answers for one in group)
    places = sum(one.length for one in prompts) + bearing
    reading = sum(
        one.length**2 / 2 + sum(len(a) * (one.length + len(a) / 2) for a in group)
        for one, group in zip(prompts, answers, strict=True)
    )
    weights = 4 * (costs.active * places + costs.head * bearing + costs.tower * patches)
    return (weights + 3 * 4 * costs.attention * reading) / rates.flops_per_s


def main() -> None:
    import torch

    device, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    cuda = device == "cuda"
    kind = torch.bfloat16 if cuda else torch.float32

    def least_s(work: Callable[[], object], times: int = 10) -> float:
        """On a processor by the time that the process was given: other work raises no floor."""
        clock = time.perf_counter if cuda else lambda: time.process_time() / threads
        taken: list[float] = []
        for _ in range(times + 3):
            began = clock()
            work()
            if cuda:
                torch.cuda.synchronize()
            taken.append(clock() - began)
        return min(taken[3:])

    size = 8192 if cuda else 1024
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    flops = 2 * size**3 / least_s(lambda: a @ b)
    source = torch.randn(2**29 if cuda else 2**25, device=device, dtype=kind)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / least_s(lambda: target.copy_(source))
    print(json.dumps({"bytes_per_s": moved, "flops_per_s": flops}))


if __name__ == "__main__":
    main()
