"""A training step as a user of transformers and peft writes it: micro-batches, padded on the right.

    python peft_step.py WORK.json           # a program of `told`

The loss is the importance-sampled policy gradient on the answers' tokens, summed; logits are asked
for where answers can stand (`logits_to_keep`), the optimizer is torch's AdamW on the adapter.
Gradient checkpointing is on where the work says so.
"""

from typing import Any

import torch
from prompted import load, rows_of, wait_for, with_lora

from beside.told import Run, answer_rounds


def prepare(work: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    """Load the network; the sum of the answers' log-probabilities, and a round."""
    loaded = load(work)
    network = with_lora(loaded, work["lora"]).train()
    if work["checkpointing"]:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.enable_input_require_grads()
    trained = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    pairs = [
        (prompt, answer, 1.0 if place % 2 else -1.0)
        for prompt, group in zip(work["prompts"], work["answers"], strict=True)
        for place, answer in enumerate(group)
    ]
    size = work["micro_batch"]
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]

    def logprobs(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T] of each token behind the first that the batch's logits are of, and the answers'
        places among them."""
        prompts, answers, _ = zip(*batch, strict=True)
        rows = rows_of(loaded, prompts, answers, left=False)
        lengths = [
            sum(len(part["tokens"]) + part["visual_tokens"] for part in prompt["parts"])
            for prompt in prompts
        ]
        first = min(lengths) - 1
        kept = rows.ids.shape[1] - first
        logits = network(**rows.inputs(), logits_to_keep=kept).logits[:, :-1].float()
        targets = rows.ids[:, first + 1 :]
        found = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        places = torch.arange(first + 1, rows.ids.shape[1], device=found.device)
        starts = torch.tensor(lengths, device=found.device)[:, None]
        ends = starts + torch.tensor([len(one) for one in answers], device=found.device)[:, None]
        return found, (places >= starts) & (places < ends)

    def train(_: int) -> dict[str, Any]:
        for batch in batches:
            found, mine = logprobs(batch)
            advantages = torch.tensor([one[2] for one in batch], device=found.device)[:, None]
            ratio = torch.exp(found + 1.0)  # the sampler's are -1, as on our side
            (-(ratio * advantages * mine).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        wait_for(loaded.device)
        facts: dict[str, Any] = {"sequences": len(pairs)}
        if loaded.device == "cuda":
            facts["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return facts

    with torch.no_grad():
        total = 0.0
        for batch in batches:
            found, mine = logprobs(batch)
            total += float((found * mine).double().sum())
    return {"answers_logprob": total}, train


if __name__ == "__main__":
    answer_rounds(prepare)
