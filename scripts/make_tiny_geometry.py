"""Make the shipped model `visual-r1/tiny-geometry` again, bit for bit.

    python scripts/make_tiny_geometry.py --out tiny-geometry

Supervised learning from random weights on training problems, three prompts mixed (think; scan and
think; solve from a scan without the image), half-trained on purpose: it reads well, and it
calculates as its teacher does, who is careful for the first steps and then loses a carry here and
a borrow there (recipe/slips.py). It knows both ways, and what reinforcement learning adds is
correctness. A constant learning rate, then a cool-down to nothing, so that GRPO does not win by
calming down what noise stirred up. One thread and a schedule in steps: the weights depend on
--seed and the library versions alone.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import logging

from recipe.batches import collate
from recipe.folder import configuration, write_model, write_processor, write_tokenizer
from recipe.measure import blanked, measure
from recipe.muon import Optimizer
from recipe.texts import Chat, PromptTokens, Template, chat
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import FAMILIES, generate, problem
from visual_r1.hashing import stable_seed
from visual_r1.models.processor import load_processor

THREADS = 1
BATCH = 32
PRINT_EVERY = 25
WARMUP = 50
CARELESS_FROM = 400  # the step from which the teacher makes slips
MUON_RATE, ADAM_RATE = 0.02, 2e-3
SHARES: dict[Template, float] = {"think": 0.7, "scan_think": 0.15, "scan_only": 0.15}
PROBLEM_SEED = 20_000  # of the problems; runs use small seeds, and splits are disjoint anyway
# Twelve chats in turn: what is learnt last comes more often, so that no family is left at zero
# while another is done.
TURNS = (*FAMILIES, "quadrilateral", "segment", "segment")


def chats_of(seed: int, step: int) -> list[Chat]:
    """The chats of a step: all of one template, on problems that no other step has seen."""
    template = random.Random(stable_seed("template", seed, step)).choices(
        list(SHARES), list(SHARES.values())
    )[0]
    numbers = range(step * BATCH, (step + 1) * BATCH)
    return [
        chat(
            problem(PROBLEM_SEED + seed, "train", problem_number(number)),
            template,
            slips=step >= CARELESS_FROM,
        )
        for number in numbers
    ]


def problem_number(chat_number: int) -> int:
    """The problem of a chat: families by TURNS, each problem of a family once."""
    cycle, place = divmod(chat_number, len(TURNS))
    family = TURNS[place]
    before = cycle * TURNS.count(family) + TURNS[:place].count(family)
    return before * len(FAMILIES) + FAMILIES.index(family)


def rate(step: int, steps: int, cooldown: int) -> float:
    """The learning rate's factor: up for WARMUP steps, flat, then down to 0 over `cooldown`."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / max(cooldown, 1))


def train_step(
    model: Qwen3VLForConditionalGeneration,
    optimizer: Optimizer,
    prompts: PromptTokens,
    chats: list[Chat],
    factor: float,
) -> float:
    """One update on the mean cross-entropy of the response tokens; gives that loss in nats."""
    batch = collate(chats, prompts)
    logits = model(
        input_ids=batch.tokens,
        position_ids=batch.positions,
        pixel_values=batch.pixels,
        image_grid_thw=batch.grids,
        use_cache=False,
    ).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100
    )
    loss.backward()
    optimizer.step(MUON_RATE * factor, ADAM_RATE * factor)
    return loss.item()


def train(
    model: Qwen3VLForConditionalGeneration,
    prompts: PromptTokens,
    seed: int,
    steps: int,
    cooldown: int,
) -> None:
    """The whole schedule, with a line of progress every few steps."""
    optimizer = Optimizer(model)
    model.train()
    started, losses = time.monotonic(), list[float]()
    for step in range(steps):
        factor = rate(step, steps, cooldown)
        losses.append(train_step(model, optimizer, prompts, chats_of(seed, step), factor))
        if (step + 1) % PRINT_EVERY == 0 or step + 1 == steps:
            seconds = time.monotonic() - started
            left = seconds / (step + 1) * (steps - step - 1)
            print(
                f"step {step + 1}/{steps} loss {sum(losses) / len(losses):.4f} "
                f"{(step + 1) * BATCH / seconds:.0f} chats/s, {left:.0f} s left",
                flush=True,
            )
            losses.clear()


def report(
    model: Qwen3VLForConditionalGeneration, prompts: PromptTokens, problems: list[Problem]
) -> None:
    """Print accuracies, for each template and by family, and with the picture blanked."""
    for template in SHARES:
        for sampled in (False, True):
            scores = measure(model, prompts, problems, template, sampled=sampled)
            how = "sampled" if sampled else "greedy "
            families = " ".join(f"{name} {hit:.2f}" for name, hit in scores.by_family.items())
            print(
                f"{template:10} {how} accuracy {scores.accuracy:.3f} format "
                f"{scores.format_rate:.3f} tokens {scores.mean_tokens:.0f} | {families}",
                flush=True,
            )
    blind = measure(model, prompts, [blanked(p) for p in problems], sampled=False)
    print(f"think      blind   accuracy {blind.accuracy:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--cooldown", type=int, default=250, help="of these, the last ones")
    parser.add_argument("--validation", type=int, default=504, help="problems to measure on")
    args = parser.parse_args()

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(args.out, PROBLEM_SEED + args.seed)
    write_processor(args.out)
    prompts = PromptTokens(load_processor(str(args.out)))
    model = Qwen3VLForConditionalGeneration(configuration(tokenizer))
    train(model, prompts, args.seed, args.steps, args.cooldown)
    write_model(args.out, model)
    problems = list(generate(PROBLEM_SEED + args.seed, "validation", args.validation))
    report(model, prompts, problems)


if __name__ == "__main__":
    main()
