"""transformers' `generate`, as a user writes it: all prompts in one batch, a group of answers each.

    python hf_generate.py WORK.json         # a program of `told`

With an adapter in the work it samples through peft's modules, as a training loop does without
merging; without one, from the base.

The work says which cache it keeps (`work.Cache`). The continuous one is transformers' own server of
many requests (`generate_batch`), which takes token ids alone: images are left out there and their
places are read as text, at the same cost but for the vision tower's.
"""

from typing import Any

import torch
from prompted import load, rows_of, wait_for, with_lora
from transformers import CompileConfig, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from beside.told import Run, answer_rounds

PAGE = 32
"""Places of a page of the continuous cache on a processor."""


def prepare(work: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    """Load the network; the greedy answers of the first prompts, and a round."""
    loaded = load(work)
    network = with_lora(loaded, work["lora"]).eval() if work["lora"] else loaded.network
    new, continuous = work["new_tokens"], work["cache"] == "continuous"
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    # Every answer has its full length, as on our side.
    full = {"max_new_tokens": new, "eos_token_id": -1, "pad_token_id": 0}
    kept = {} if continuous else cache_of(work["cache"])

    def generate(prompts: list[Any], samples: int, **how: Any) -> torch.Tensor:
        rows = rows_of(loaded, prompts)
        with torch.no_grad():
            answers = network.generate(
                **rows.inputs(), **how, **full, **kept, num_return_sequences=samples,
                min_new_tokens=new,
            )  # fmt: skip
        wait_for(loaded.device)
        return answers[:, rows.ids.shape[1] :]

    def generate_batch() -> int:
        rows = rows_of(loaded, work["prompts"])
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(rows.ids, rows.mask, strict=True)]
        settings = GenerationConfig(**drawn, **full, num_return_sequences=work["group"])
        pages = pages_of(loaded.device, prompts, work["group"], new)
        answers = network.generate_batch(prompts, settings, pages)
        return sum(len(one.generated_tokens) for one in answers.values())

    def sample(_: int) -> dict[str, Any]:
        if continuous:
            facts: dict[str, Any] = {"tokens": generate_batch()}
        else:
            facts = {"tokens": generate(work["prompts"], work["group"], **drawn).numel()}
        if loaded.device == "cuda":
            facts["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return facts

    compared = not work["lora"] and not continuous
    greedy = generate(work["prompts"], 1, do_sample=False).tolist() if compared else []
    return {"greedy": greedy}, sample


def cache_of(kind: str) -> dict[str, Any]:
    """The flags of `generate`."""
    if kind == "dynamic":
        return {}
    if kind == "static":
        return {"cache_implementation": "static"}
    everywhere: Any = CompileConfig(mode="default", fullgraph=False)
    everywhere._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": everywhere}


def pages_of(device: str, prompts: list[list[int]], group: int, new: int) -> Any:
    """A card's pages are as many as its memory holds. On a processor that would be nine tenths of
    the machine's, and a mask over all of them is filled before anything is read: there as many as
    the work needs."""
    how: dict[str, Any] = {"return_logprobs": True, "seed": 1}
    if device != "cuda":
        pages = sum(group * (-(-(len(one) + new) // PAGE) + 1) for one in prompts)
        how |= {"page_size": PAGE, "num_blocks": pages, "max_batch_tokens": 2048}
    return ContinuousBatchingConfig(**how)


if __name__ == "__main__":
    answer_rounds(prepare)
