"""Make the shipped model `visual-r1/tiny-geometry` again, bit for bit.

    python scripts/make_tiny_geometry.py --out /tmp/tiny-geometry

Supervised learning from random weights on training problems, three prompts mixed (think; scan and
think; solve from a scan without the image), stopped half-way on purpose: reading is good, the
arithmetic is shaky, and what reinforcement learning adds is correctness. A constant learning rate,
then a cool-down to nothing, so that GRPO does not win by calming down what noise stirred up. One
thread and a schedule in steps: the weights depend on --seed and the library versions alone.
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
from recipe.texts import Example, Template, example
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate, problem
from visual_r1.hashing import stable_seed
from visual_r1.models.processor import Processor, load_processor

THREADS = 1
BATCH = 32
WARMUP = 50
MUON_RATE, ADAM_RATE = 0.02, 2e-3
SHARES: dict[Template, float] = {"think": 0.7, "scan_think": 0.15, "scan_only": 0.15}
PROBLEM_SEED = 20_000  # of the problems; runs use small seeds, and splits are disjoint anyway


def chats_of(seed: int, step: int) -> list[Example]:
    """The chats of a step: all of one template, on problems that no other step has seen."""
    template = random.Random(stable_seed("template", seed, step)).choices(
        list(SHARES), list(SHARES.values())
    )[0]
    numbers = range(step * BATCH, (step + 1) * BATCH)
    return [example(problem(PROBLEM_SEED + seed, "train", i), template) for i in numbers]


def rate(step: int, steps: int, cooldown: int) -> float:
    """The learning rate's factor: up for WARMUP steps, flat, then down to 0 over `cooldown`."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / max(cooldown, 1))


def train_step(
    model: Qwen3VLForConditionalGeneration,
    optimizer: Optimizer,
    processor: Processor,
    chats: list[Example],
    factor: float,
) -> float:
    """One update on the mean cross-entropy of the response tokens; gives that loss in nats."""
    batch = collate(chats, processor)
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


def report(
    model: Qwen3VLForConditionalGeneration, processor: Processor, problems: list[Problem]
) -> None:
    """Print the validation accuracies."""
    for template in SHARES:
        for sampled in (False, True):
            scores = measure(model, processor, problems, template, sampled=sampled)
            how = "sampled" if sampled else "greedy "
            families = " ".join(f"{name} {hit:.2f}" for name, hit in scores.by_family.items())
            print(
                f"{template:10} {how} accuracy {scores.accuracy:.3f} format "
                f"{scores.format_rate:.3f} tokens {scores.mean_tokens:.0f} | {families}"
            )
    blind = measure(model, processor, [blanked(p) for p in problems], sampled=False)
    print(f"think      blind   accuracy {blind.accuracy:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--cooldown", type=int, default=300, help="of these, the last ones")
    parser.add_argument("--validation", type=int, default=504, help="validation problems")
    parser.add_argument("--every", type=int, default=250, help="steps between two lines")
    parser.add_argument("--resume", type=Path, help="a .pt of an earlier run to go on from")
    args = parser.parse_args()

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(args.out, PROBLEM_SEED + args.seed)
    write_processor(args.out)
    processor = load_processor(str(args.out))
    model = Qwen3VLForConditionalGeneration(configuration(tokenizer))
    optimizer = Optimizer(model)
    problems = list(generate(PROBLEM_SEED + args.seed, "validation", args.validation))
    first = 0
    if args.resume:
        saved = torch.load(args.resume)
        first = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.muon.velocity = saved["muon"]
        optimizer.adam.load_state_dict(saved["adam"])
    started, losses = time.monotonic(), []
    for step in range(first, args.steps):
        model.train()
        chats = chats_of(args.seed, step)
        losses.append(
            train_step(model, optimizer, processor, chats, rate(step, args.steps, args.cooldown))
        )
        if (step + 1) % args.every == 0:
            pace = (step + 1 - first) * BATCH / (time.monotonic() - started)
            scores = measure(model, processor, problems[:135], sampled=False)
            families = " ".join(f"{name} {hit:.2f}" for name, hit in scores.by_family.items())
            print(
                f"step {step + 1} loss {sum(losses) / len(losses):.4f} "
                f"greedy {scores.accuracy:.3f} {families} | {pace:.0f} chats/s",
                flush=True,
            )
            losses = []
            if args.cooldown == 0:
                torch.save(
                    {
                        "step": step + 1,
                        "model": model.state_dict(),
                        "muon": optimizer.muon.velocity,
                        "adam": optimizer.adam.state_dict(),
                    },
                    args.out / f"at{step + 1}.pt",
                )
    write_model(args.out, model)
    report(model, processor, problems)


if __name__ == "__main__":
    main()
