"""Our side: the embedded engine as its command starts it, asked through the `tinker` SDK.

    python ours.py WORK.json            # a program of `told`: a round samples, or trains where the
                                        # work has answers

CPU seconds are those of client and engine together. The client looks for garbage as a run's process
does.
"""

import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("TINKER_TELEMETRY", "0")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil
import tinker

from beside.faults import BenchmarkError
from beside.told import Run, answer_rounds
from beside.work import Work, model_inputs, read
from visual_r1.engine.loading import LOADING
from visual_r1.garbage import collect_nothing, collect_what_is_new

LIMIT_S = 3600.0
RATE = 1e-4


class Engine:
    """`python -m visual_r1.engine` in a process of its own; use it as a context."""

    def __init__(
        self,
        model: str,
        device: str,
        threads: int,
        home: Path,
        log: IO[bytes],
        within_s: float = LIMIT_S,
    ) -> None:
        """Start it, and wait until it serves; a large model loads for minutes.

        Raises `BenchmarkError` where it does not.
        """
        self.key = f"tml-{secrets.token_urlsafe(24)}"
        command = [sys.executable, "-m", "visual_r1.engine", "--home", str(home)]
        command += ["--model", model, "--device", device, "--threads", str(threads)]
        # It ends when this process does, in whatever way.
        theirs, self._pipe = os.pipe()
        command += ["--parent-fd", str(theirs)]
        self.process = subprocess.Popen(
            command, env=os.environ | {"VISUAL_R1_ENGINE_KEY": self.key}, stdout=subprocess.PIPE,
            stderr=log, stdin=subprocess.DEVNULL, text=True, pass_fds=(theirs,),
        )  # fmt: skip
        os.close(theirs)
        assert self.process.stdout is not None
        line, until = LOADING, time.monotonic() + within_s
        while line.startswith(LOADING):  # a large model, or a busy machine: data still move
            left = max(0.0, until - time.monotonic())
            there = select.select([self.process.stdout], [], [], left)[0]
            line = self.process.stdout.readline().strip() if there else ""
        if "ready on " not in line:
            self.process.kill()
            self.process.wait()
            why = line or ("its log says why" if there else f"not within {within_s:.0f} s")
            raise BenchmarkError(f"the engine did not start: {why}.")
        self.url = line.split()[-1]
        self._clients: list[tinker.ServiceClient] = []
        self._seen = psutil.Process(self.process.pid)

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def busiest_thread_s(self) -> float:
        """CPU time of the thread that has used most: the one that computes, on a processor."""
        return max(one.user_time + one.system_time for one in self._seen.threads())

    def memory_bytes(self) -> int:
        """Resident."""
        return self._seen.memory_info().rss

    def client(self) -> tinker.ServiceClient:
        """A client with a session of its own, which ends before the engine does."""
        self._clients.append(tinker.ServiceClient(base_url=self.url, api_key=self.key))
        return self._clients[-1]

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            with suppress(TimeoutError, tinker.TinkerError, RuntimeError):
                client.close("success").result(timeout=10)
        os.close(self._pipe)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def sampled(
    sampler: tinker.SamplingClient,
    work: Work,
    seed: int,
    *,
    temperature: float = 1.0,
    limit_s: float = LIMIT_S,
) -> list[tinker.SampleResponse]:
    """Each prompt answered; every answer has its full length (`stop=[]`: no token ends it)."""
    prompts = model_inputs(work.prompts)
    drawn = [
        tinker.SamplingParams(
            max_tokens=work.new_tokens,
            temperature=temperature,
            seed=len(prompts) * seed + place,
            stop=[],
        )
        for place in range(len(prompts))
    ]
    asked = [
        sampler.sample(prompt=prompt, num_samples=work.group, sampling_params=how)
        for prompt, how in zip(prompts, drawn, strict=True)
    ]
    return [one.result(timeout=limit_s) for one in asked]


def datum(
    prompt: tinker.ModelInput, tokens: list[int], logprobs: list[float], advantage: float
) -> tinker.Datum:
    """What GRPO sends back: prompt and answer but its last token, targets shifted by one."""
    silent = prompt.length - 1
    inputs = {
        "target_tokens": np.array([0] * silent + tokens, np.int64),
        "logprobs": np.array([0.0] * silent + logprobs, np.float32),
        "advantages": np.array([0.0] * silent + [advantage] * len(tokens), np.float32),
    }
    return tinker.Datum(
        model_input=tinker.ModelInput(
            chunks=[*prompt.chunks, tinker.EncodedTextChunk(tokens=tokens[:-1])]
        ),
        loss_fn_inputs={
            name: tinker.TensorData.from_numpy(values) for name, values in inputs.items()
        },
    )


def datums(work: Work) -> list[tinker.Datum]:
    """Of the work's answers; half of a group did better than the other half."""
    return [
        datum(prompt, list(answer), [-1.0] * len(answer), 1.0 if place % 2 else -1.0)
        for prompt, group in zip(model_inputs(work.prompts), work.answers, strict=True)
        for place, answer in enumerate(group)
    ]


def training_client(service: tinker.ServiceClient, work: Work) -> tinker.TrainingClient:
    """A new adapter of the work's rank."""
    assert work.lora is not None
    return service.create_lora_training_client(work.model, rank=work.lora.rank, seed=0).result()


def answers_logprob(work: Work, done: tinker.ForwardBackwardOutput) -> float:
    """Sum of the log-probabilities of all answers' tokens: the same on every side."""
    places = [
        prompt.length - 1
        for prompt, group in zip(work.prompts, work.answers, strict=True)
        for _ in group
    ]
    return float(
        sum(
            np.asarray(one["logprobs"].to_numpy(), np.float64).reshape(-1)[place:].sum()
            for one, place in zip(done.loss_fn_outputs, places, strict=True)
        )
    )


def prepare(raw: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    """Start the engine; what it says of itself, and a round."""
    collect_nothing()
    work = read(raw)
    home = tempfile.TemporaryDirectory()
    engine = Engine(work.model, work.device, work.threads, Path(home.name), sys.stderr.buffer)
    _keep.extend((home, engine))
    service = engine.client()
    before = 0.0

    def engine_cpu() -> float:
        nonlocal before
        now = engine.cpu_seconds()
        used, before = now - before, now
        return used

    if work.answers:
        client = training_client(service, work)
        data = datums(work)
        first = client.forward(data, "importance_sampling").result(timeout=LIMIT_S)
        collect_what_is_new(seldom=True)
        engine_cpu()

        def train(_: int) -> dict[str, Any]:
            engine_cpu()
            sent = client.forward_backward(data, "importance_sampling")
            stepped = client.optim_step(tinker.AdamParams(learning_rate=RATE))
            sent.result(timeout=LIMIT_S)
            stepped.result(timeout=LIMIT_S)
            return {"other_cpu_seconds": engine_cpu(), "sequences": len(data)}

        return {"answers_logprob": answers_logprob(work, first)}, train

    if work.lora is None:
        sampler = service.create_sampling_client(base_model=work.model)
        greedy = [
            list(one.sequences[0].tokens) for one in sampled(sampler, work, 0, temperature=0.0)
        ]
    else:
        client = training_client(service, work)
        sampler = client.save_weights_and_get_sampling_client().result(timeout=LIMIT_S)
        greedy = []
    collect_what_is_new(seldom=True)

    def sample(number: int) -> dict[str, Any]:
        engine_cpu()
        answers = sampled(sampler, work, number)
        tokens = sum(len(one.tokens) for answer in answers for one in answer.sequences)
        return {"other_cpu_seconds": engine_cpu(), "tokens": tokens}

    return {"greedy": greedy}, sample


_keep: list[Any] = []


if __name__ == "__main__":
    try:
        answer_rounds(prepare)
    finally:
        for kept in _keep[::-1]:
            kept.__exit__(None, None, None)
