"""How fast the embedded engine samples and trains, on the sizes of the quickstart's step.

    python benchmarks/engine_speed.py [--threads 1 2] [--rounds 5] [--model NAME] [--device cpu]
                                      [--cpu-time]

A step is 16 problems (a 96 x 96 image and about 90 tokens of text) with 8 samples each of about 60
tokens, and then one pass forward and back over the 128 sequences. Rates are those of the fastest
round: on a machine with other work the slower ones measure the others (with --cpu-time, seconds
are those that the process itself was given; for one thread). Each thread count runs in a
process of its own, since torch fixes it at its start.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

PROBLEMS = 16
SAMPLES = 8
NEW_TOKENS = 60
TEXT_TOKENS = 90

Made = TypeVar("Made")


def main() -> None:
    """Print a table of rates, one line for each thread count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="visual-r1/tiny-geometry")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's own seconds")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        measure(arguments.model, arguments.device, arguments.threads[0], arguments.rounds, clock)
        return
    print(
        f"{arguments.model} on {arguments.device}: {PROBLEMS} problems x {SAMPLES} samples x "
        f"{NEW_TOKENS} tokens; best of {arguments.rounds} rounds"
    )
    print(
        "threads   sampling [tokens/s]   n   forward_backward [sequences/s]   n   load", flush=True
    )
    for threads in arguments.threads:
        # Waiting threads give their core away: without it a busy machine is many times slower.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        own = ["--inside", "--threads", str(threads), "--rounds", str(arguments.rounds)]
        own += ["--model", arguments.model, "--device", arguments.device]
        own += ["--cpu-time"] if arguments.cpu_time else []
        subprocess.run([sys.executable, __file__, *own], check=True, env=environment)


def measure(model: str, device: str, threads: int, rounds: int, clock: Callable[[], float]) -> None:
    """Measure one thread count and print its line."""
    from visual_r1.engine.compute.compute import Compute
    from visual_r1.engine.types import LoraSpec, SampleOutput

    compute = Compute(model, device=device, threads=threads)
    adapter = compute.new_adapter(LoraSpec(rank=16, seed=0))
    weights = compute.freeze(adapter)
    requests = [sample_request(seed) for seed in range(PROBLEMS)]
    sampling, outputs = best(lambda: compute.sample(weights, requests), rounds, clock)
    answered = [output for output in outputs if isinstance(output, SampleOutput)]
    tokens = sum(len(answer.tokens) for output in answered for answer in output.sequences)
    data = [
        datum(request.prompt, answer)
        for request, output in zip(requests, answered, strict=True)
        for answer in output.sequences
    ]
    training, _ = best(
        lambda: compute.forward(adapter, data, "importance_sampling", {}, backward=True),
        rounds,
        clock,
    )
    print(
        f"{threads:7d} {tokens / sampling:21,.0f} {tokens:5d} {len(data) / training:30.1f} "
        f"{len(data):5d} {os.getloadavg()[0]:6.1f}",
        flush=True,
    )


def best(run: Callable[[], Made], rounds: int, clock: Callable[[], float]) -> tuple[float, Made]:
    """The shortest time of `rounds` runs after one to warm up, and the last result."""
    result = run()
    times: list[float] = []
    for _ in range(rounds):
        start = clock()
        result = run()
        times.append(clock() - start)
    return min(times), result


def sample_request(seed: int):
    """A prompt of random text around a noise image; every answer runs to its full length."""
    import io

    import numpy as np
    from PIL import Image

    from visual_r1.engine.types import ImagePart, SampleRequest, SamplingSettings, TextPart

    rng = np.random.default_rng(seed)
    image = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(image, "PNG")
    text = tuple(int(token) for token in rng.integers(3, 250, TEXT_TOKENS - seed % 8))
    prompt = (TextPart(text[:40]), ImagePart(image.getvalue()), TextPart(text[40:]))
    settings = SamplingSettings(NEW_TOKENS, seed=seed, stop_at_eos=False)
    return SampleRequest(prompt, settings, num_samples=SAMPLES)


def datum(prompt, answer):
    """What GRPO sends back: prompt and answer but its last token, targets shifted by one."""
    import numpy as np

    from visual_r1.engine.types import Datum, TextPart

    visual = 16
    start = sum(len(p.tokens) if isinstance(p, TextPart) else visual for p in prompt) - 1
    places = start + len(answer.tokens)
    inputs = {
        "target_tokens": np.zeros(places, np.int64),
        "logprobs": np.zeros(places, np.float32),
        "advantages": np.zeros(places, np.float32),
    }
    inputs["target_tokens"][start:] = answer.tokens
    inputs["logprobs"][start:] = answer.logprobs
    inputs["advantages"][start:] = 1.0
    return Datum((*prompt, TextPart(answer.tokens[:-1])), inputs)


if __name__ == "__main__":
    main()
