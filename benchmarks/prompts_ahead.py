"""What building the next step's prompts ahead saves: what is built while a server is at work.

    python benchmarks/prompts_ahead.py                      # 32 problems a step, 8 steps
    python benchmarks/prompts_ahead.py --batch 16 --steps 20

For figures of several kinds: the seconds that reading a step's problems from Parquet and building
their prompts takes, and how long a step still waits for them when the step before took `--server`
seconds at a remote server (for which a wait stands here). On the embedded engine, which computes
on the same cores, what is built ahead is moved and not saved, but for cores that are idle.
"""

import argparse
import io
import random
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw

from visual_r1.config import RunConfig, TrainSection
from visual_r1.data.problem import Problem
from visual_r1.data.procedural import generate
from visual_r1.data.shards import StoredProblems, finished_shard, problem_row, write_shard
from visual_r1.models.processor import load_processor
from visual_r1.prompts.prompts import Prompter
from visual_r1.rl.batches import Batches, EpochOrder


def drawing(size: int, seed: int) -> bytes:
    """A drawing: lines on white paper, as PNG."""
    rng = random.Random(seed)
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        ends = [rng.randrange(size) for _ in range(4)]
        draw.line(ends, fill="black", width=3)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def stored(folder: Path, size: int, count: int) -> StoredProblems:
    """A training split of `count` problems, figures of `size` pixels; 0: the procedural ones."""
    if size:
        problems = [
            Problem(str(i), (drawing(size, i),), "<image>" + "Find x. " * 10, "5")
            for i in range(count)
        ]
    else:
        problems = list(generate(0, "train", count))
    path = finished_shard(folder, "train", 0, 1)
    write_shard(path, ((problem_row(one), sum(map(len, one.images))) for one in problems))
    return StoredProblems([path])


def measure(
    problems: StoredProblems, prompter: Prompter, size: int, steps: int, server_s: float
) -> tuple[float, float]:
    """(seconds to read and build a step's prompts, seconds that a step waits for them)."""
    order = EpochOrder(TrainSection(batch_size=size, seed=0), len(problems))
    alone: list[float] = []
    for step in range(steps, 2 * steps):  # other problems: nothing is cached
        with Batches(problems, order, prompter.model_input, range(step, step + 1)) as batches:
            alone.append(seconds_for(batches, step))
    waits: list[float] = []
    with Batches(problems, order, prompter.model_input, range(steps)) as batches:
        for step in range(steps):
            waits.append(seconds_for(batches, step))
            time.sleep(server_s)
    return statistics.median(alone), statistics.median(waits[1:])


def seconds_for(batches: Batches, step: int) -> float:
    """How long a step waits for its prompts."""
    began = time.monotonic()
    next(batches.rounds(step))
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--server", type=float, default=5.0, help="seconds of a step at a server")
    chosen = parser.parse_args()
    config = RunConfig.model_validate({"preset": "quickstart"})
    processor = load_processor(config.model.name)
    print(
        "| figures | a step's prompts, s | waited for when built ahead, s |\n| --- | ---: | ---: |"
    )
    for name, pixels, most in (
        ("96 x 96, procedural", 0, 1_000_000),
        ("1000 x 1000, as they are", 1000, 1_000_000),
        ("1000 x 1000, scaled to 512 x 512", 1000, 512 * 512),
        ("2000 x 2000, scaled to 1000 x 1000", 2000, 1_000_000),
    ):
        prompter = Prompter(processor, config.prompt.template, most)
        with tempfile.TemporaryDirectory() as folder:
            problems = stored(Path(folder), pixels, 2 * chosen.batch * chosen.steps + chosen.batch)
            alone, waited = measure(problems, prompter, chosen.batch, chosen.steps, chosen.server)
        print(f"| {name} | {alone:.3f} | {waited:.4f} |", flush=True)


if __name__ == "__main__":
    main()
