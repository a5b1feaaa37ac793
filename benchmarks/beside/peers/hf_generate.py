"""transformers' `generate`, as a user writes it: all prompts in one batch, a group of answers each.

    python hf_generate.py WORK.json         # a program of `told`

With an adapter in the work it samples through peft's modules, as a training loop does without
merging; without one, from the base.
"""

from typing import Any

import torch
from prompted import load, rows_of, wait_for, with_lora

from beside.told import Run, answer_rounds


def prepare(work: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    """Load the network; the greedy answers of the first prompts, and a round."""
    loaded = load(work)
    network = with_lora(loaded, work["lora"]).eval() if work["lora"] else loaded.network
    new = work["new_tokens"]
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

    def generate(prompts: list[Any], samples: int, **how: Any) -> torch.Tensor:
        rows = rows_of(loaded, prompts)
        with torch.no_grad():
            answers = network.generate(
                **rows.inputs(), **how, num_return_sequences=samples,
                # Every answer has its full length, as on our side.
                max_new_tokens=new, min_new_tokens=new, eos_token_id=-1, pad_token_id=0,
            )  # fmt: skip
        wait_for(loaded.device)
        return answers[:, rows.ids.shape[1] :]

    def sample(_: int) -> dict[str, Any]:
        answers = generate(work["prompts"], work["group"], **drawn)
        facts: dict[str, Any] = {"tokens": answers.numel()}
        if loaded.device == "cuda":
            facts["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return facts

    greedy = [] if work["lora"] else generate(work["prompts"], 1, do_sample=False).tolist()
    return {"greedy": greedy}, sample


if __name__ == "__main__":
    answer_rounds(prepare)
