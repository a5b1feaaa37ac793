"""Parts of our computation beside what others keep for them: one layer's worth of work each.

    python -m beside.kernels DEVICE [--small]       # a line of JSON for each, as it comes

What a learner attends to (prompts that several answers share), experts with LoRAs, and
log-probabilities over a large vocabulary; forward, and back where it is trained. Each contender's
results are compared with ours: `apart` is the largest norm of a difference, as a share of the norm,
of results and gradients. What is not installed, or does not run on this device, says why not.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUNDS = 5
WARM = 2
MISSING = (ImportError, AttributeError, TypeError, RuntimeError)
"""Of a contender: not installed, of another version, without a kernel, not compiled, no memory."""

Outputs = Sequence[Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    prompts: int
    answers: int
    """To each prompt."""
    prompt_places: int
    answer_places: int
    heads: int
    key_heads: int
    width: int
    hidden: int
    expert: int
    experts: int
    chosen: int
    """Experts that read a token."""
    tokens: int
    """That experts compute in training."""
    rows: int
    """That decode together."""
    vocabulary: int
    scored: int


CARD = Sizes(
    prompts=12, answers=8, prompt_places=290, answer_places=256, heads=16, key_heads=8, width=128,
    hidden=2048, expert=768, experts=128, chosen=8, tokens=8192, rows=256, vocabulary=151_936,
    scored=8192,
)  # fmt: skip
"""Attention and vocabulary of the 2B, experts of the 30B-A3B."""

SMALL = Sizes(
    prompts=2, answers=3, prompt_places=40, answer_places=24, heads=4, key_heads=2, width=32,
    hidden=64, expert=32, experts=8, chosen=2, tokens=96, rows=16, vocabulary=500, scored=48,
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What came of a contender."""

    work: str
    name: str
    seconds: float | None = None
    apart: float | None = None
    peak_gib: float | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Contest:
    """A piece of work, and who does it; the first one is ours."""

    work: str
    contenders: dict[str, Callable[[], Outputs]]


def contests(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Iterator[Contest]:
    """All of them, one after the other: what one holds is free before the next one is made."""
    yield Contest("attention, forward and back", attention(sizes, device, dtype))
    for what, rows, back in (
        ("experts with a LoRA, forward and back", sizes.tokens, True),
        ("experts with a LoRA, a decode step", sizes.rows, False),
    ):
        yield Contest(what, experts(sizes, device, dtype, rows, back))
    yield Contest("log-probabilities, forward and back", vocabulary(sizes, device, dtype))


def results(contest: Contest, device: torch.device) -> Iterator[Found]:
    """Of each contender in turn."""
    ours: Outputs | None = None
    for name, work in contest.contenders.items():
        try:
            outputs, seconds, peak = timed(work, device)
        except MISSING as error:
            said = (str(error).strip().splitlines() or [""])[0]
            yield Found(contest.work, name, why_not=f"{type(error).__name__}: {said}"[:200])
            continue
        ours = outputs if ours is None else ours
        yield Found(contest.work, name, seconds, apart(outputs, ours), peak)


def timed(work: Callable[[], Outputs], device: torch.device) -> tuple[Outputs, float, float | None]:
    """The last outputs, the median of the seconds, and the most memory on a card in GiB."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    taken: list[float] = []
    outputs: Outputs = ()
    for number in range(WARM + ROUNDS):
        if cuda and number == WARM:
            torch.cuda.reset_peak_memory_stats()
        began = clock()
        outputs = work()
        if cuda:
            torch.cuda.synchronize()
        taken.append(clock() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return [one.detach() for one in outputs], statistics.median(taken[WARM:]), peak


def apart(outputs: Outputs, ours: Outputs) -> float:
    """The largest norm of a difference, as a share of the norm."""
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(outputs, ours, strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


# -- attention -------------------------------------------------------------------------------------


class Prompts:
    """Prompts with their answers side by side in N places, and who sees whom."""

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        """Queries, keys, values, and the gradient of what comes out."""
        from visual_r1.engine.compute.packing import Packing

        roots = [sizes.prompt_places] * sizes.prompts
        branches = [
            (root, sizes.answer_places)
            for root in range(sizes.prompts)
            for _ in range(sizes.answers)
        ]
        self.packing = Packing.of(roots, branches, device, dtype)
        self.used = self.packing.used
        self.of_prompt = torch.full((self.packing.places,), -1, device=device)
        self.of_answer = torch.full((self.packing.places,), -1, device=device)
        ends = [*self.packing.starts[1:], self.used]
        for number, (start, end) in enumerate(zip(self.packing.starts, ends, strict=True)):
            answer = number - len(roots)
            self.of_prompt[start:end] = number if answer < 0 else branches[answer][0]
            self.of_answer[start:end] = answer if answer >= 0 else -1
        generator = torch.Generator(device).manual_seed(0)

        def drawn(heads: int) -> Tensor:
            shape = (1, heads, self.packing.places, sizes.width)
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        self.given = drawn(sizes.heads).transpose(1, 2)
        self.given[:, self.used :] = 0
        self.parts = tuple(
            drawn(heads).requires_grad_()
            for heads in (sizes.heads, sizes.key_heads, sizes.key_heads)
        )

    def learnt(self, output: Tensor) -> Outputs:
        """The output [1, N, heads, width] of the places in use, and its gradients."""
        gradients = torch.autograd.grad(output, self.parts, self.given)
        return [output[:, : self.used], *(one[:, :, : self.used] for one in gradients)]


def attention(
    sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], Outputs]]:
    """What a layer attends to in training."""
    prompts = Prompts(sizes, device, dtype)
    varlen = Stretches(prompts, sizes, device)

    def ours() -> Outputs:
        from visual_r1.engine.compute.packing import attend

        queries, keys, values = prompts.parts
        how: dict[str, Any] = {"packing": prompts.packing, "scaling": sizes.width**-0.5}
        output, _ = attend(nn.Module(), queries, keys, values, None, **how)
        return prompts.learnt(output)

    compiled: list[Any] = []

    def flex() -> Outputs:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if not compiled:
            places = prompts.packing.places
            mask = create_block_mask(seen(prompts), 1, None, places, places, device=device.type)
            compiled.extend((torch.compile(flex_attention), mask))
        run, mask = compiled
        output: Tensor = run(
            *prompts.parts, block_mask=mask, enable_gqa=True, scale=sizes.width**-0.5
        )
        return prompts.learnt(output.transpose(1, 2))

    return {
        "ours (scaled dot product attention in blocks)": ours,
        "FlexAttention, compiled": flex,
        "torch's varlen_attn": lambda: prompts.learnt(varlen.by_torch()),
        "flash_attn's varlen": lambda: prompts.learnt(varlen.by_flash_attn()),
    }


def seen(prompts: Prompts) -> Callable[..., Tensor]:
    """The mask as FlexAttention takes it; dummies see themselves."""

    def mask(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        together = prompts.of_prompt[query] == prompts.of_prompt[key]
        own = prompts.of_answer[query] == prompts.of_answer[key]
        before = together & (own | (prompts.of_answer[key] < 0)) & (query >= key)
        return before & (prompts.of_prompt[query] >= 0) | (query == key)

    return mask


class Stretches:
    """The same as sequences of places: of queries, and of the keys that each of them sees.

    Where there are more keys than queries the last query sees them all, so an answer's keys are
    its prompt's and its own, without a mask.
    """

    def __init__(self, prompts: Prompts, sizes: Sizes, device: torch.device) -> None:
        self._prompts, self._scale = prompts, sizes.width**-0.5
        starts = [*prompts.packing.starts, prompts.used]
        spans = [torch.arange(a, b) for a, b in pairwise(starts)]
        count = sizes.prompts
        keys = [
            *spans[:count],
            *(
                torch.cat([spans[number // sizes.answers], span])
                for number, span in enumerate(spans[count:])
            ),
        ]
        self._keys = torch.cat(keys).to(device)
        self._lengths = [ends_of(one, device) for one in (spans, keys)]
        self._longest = [max(map(len, one)) for one in (spans, keys)]

    def _flat(self) -> list[Tensor]:
        """Queries, keys and values, [places, heads, width] each."""
        used = self._prompts.used
        queries, keys, values = (part[0].transpose(0, 1)[:used] for part in self._prompts.parts)
        return [queries, keys[self._keys], values[self._keys]]

    def _whole(self, output: Tensor) -> Tensor:
        rest = self._prompts.packing.places - self._prompts.used
        return functional.pad(output, (0, 0, 0, 0, 0, rest))[None]

    def by_torch(self) -> Tensor:
        """torch.nn.attention.varlen."""
        from torch.nn.attention import varlen

        how: dict[str, Any] = {"window_size": (-1, 0), "scale": self._scale, "enable_gqa": True}
        run: Any = varlen.varlen_attn
        return self._whole(run(*self._flat(), *self._lengths, *self._longest, **how))

    def by_flash_attn(self) -> Tensor:
        """The package flash-attn."""
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

        how: dict[str, Any] = {"causal": True, "softmax_scale": self._scale, "deterministic": True}
        lengths, longest = self._lengths, self._longest
        return self._whole(flash_attn_varlen_func(*self._flat(), *lengths, *longest, **how))


def ends_of(spans: Sequence[Tensor], device: torch.device) -> Tensor:
    """Where sequences begin and end, int32 [n + 1]."""
    lengths = torch.tensor([0, *map(len, spans)])
    return lengths.cumsum(0).to(device, torch.int32)


# -- experts ---------------------------------------------------------------------------------------


def experts(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, rows: int, back: bool
) -> dict[str, Callable[[], Outputs]]:
    """The experts of a layer with a LoRA of rank 16 on both of their matrices."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import Qwen3VLMoeConfig
    from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

    from visual_r1.engine.compute import experts as ours

    text = {
        "hidden_size": sizes.hidden, "moe_intermediate_size": sizes.expert,
        "num_experts": sizes.experts, "num_experts_per_tok": sizes.chosen,
    }  # fmt: skip
    config: Any = Qwen3VLMoeConfig(text_config=text).text_config
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    network = nn.Module()
    with torch.device(device):
        network.add_module("experts", Qwen3VLMoeTextExperts(config))
    network.to(dtype).requires_grad_(False)
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    inject_adapter_in_model(
        LoraConfig(r=16, lora_alpha=32, target_modules=[], target_parameters=targets), network
    )
    loras = [values for name, values in network.named_parameters() if "lora_" in name]
    for values in network.parameters():
        # Masters of a LoRA are float32 whatever the base is.
        kind = torch.float32 if any(values is one for one in loras) else dtype
        values.data = drawn(*values.shape).mul_(0.02).to(kind)
    hidden = drawn(rows, sizes.hidden).to(dtype)
    weights, chosen = drawn(rows, sizes.experts).softmax(-1).topk(sizes.chosen)
    weights = (weights / weights.sum(-1, keepdim=True)).to(dtype)
    wrapped: Any = network.experts
    plain = wrapped.get_base_layer()

    def run(forward: Callable[..., Tensor], kind: str) -> Callable[[], Outputs]:
        def work() -> Outputs:
            config._experts_implementation = kind
            if not back:
                with torch.no_grad():
                    return [forward(hidden, chosen, weights)]
            inputs = hidden.detach().requires_grad_()
            output = forward(inputs, chosen, weights)
            return [output, *torch.autograd.grad(output.square().sum(), [inputs, *loras])]

        return work

    def bare() -> Outputs:
        config._experts_implementation = "grouped_mm"
        with torch.no_grad():
            return [plain(hidden, chosen, weights)]

    theirs = wrapped.forward
    ours.install(network)
    contenders = {
        "ours (grouped_mm, LoRAs as grouped products)": run(wrapped.forward, "grouped_mm"),
        "peft's LoRA over transformers' grouped_mm": run(theirs, "grouped_mm"),
    }
    return contenders if back else contenders | {"grouped_mm without a LoRA": bare}


# -- vocabulary ------------------------------------------------------------------------------------


def vocabulary(
    sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], Outputs]]:
    """From hidden states to log-probabilities of one token a row, and the gradient back to them."""
    from visual_r1.engine.compute.vocabulary import logprobs_of

    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    hidden = drawn(sizes.scored, sizes.hidden).to(dtype).requires_grad_()
    weight = drawn(sizes.vocabulary, sizes.hidden).mul_(2 * sizes.hidden**-0.5).to(dtype)
    limits = (0, sizes.vocabulary, (sizes.scored, 1))
    targets = torch.randint(*limits, generator=generator, device=device)
    given = drawn(sizes.scored)

    def learnt(logprobs: Tensor) -> Outputs:
        return [logprobs, *torch.autograd.grad(logprobs, hidden, given.to(logprobs.dtype))]

    def plainly(logits: Tensor) -> Tensor:
        return logits.float().log_softmax(-1).gather(-1, targets)

    compiled: list[Callable[[Tensor], Tensor]] = []

    def by_compiler() -> Outputs:
        if not compiled:
            compiled.append(torch.compile(plainly))
        return learnt(compiled[0](hidden @ weight.T)[:, 0])

    def by_torch() -> Outputs:
        from torch.nn import LinearCrossEntropyOptions
        from torch.nn.functional import linear_cross_entropy

        how: Any = {"reduction": "none", "options": LinearCrossEntropyOptions()}
        return learnt(-linear_cross_entropy(hidden, weight, targets[:, 0], **how))

    def by_liger() -> Outputs:
        from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
            liger_fused_linear_cross_entropy,
        )

        lost = liger_fused_linear_cross_entropy(hidden, weight, targets[:, 0], reduction="none")
        return learnt(-(lost[0] if isinstance(lost, tuple) else lost))

    return {
        "ours (float32 slice by slice)": lambda: learnt(
            logprobs_of(hidden @ weight.T, targets)[:, 0]
        ),
        "log_softmax in float32": lambda: learnt(plainly(hidden @ weight.T)[:, 0]),
        "the same, compiled": by_compiler,
        "torch's linear_cross_entropy": by_torch,
        "liger's fused linear cross-entropy": by_liger,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("device")
    parser.add_argument("--small", action="store_true", help="toy shapes")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda":
        # As the learner does: sums have an order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    # As a card computes: the branches that are compared are those of bfloat16.
    for contest in contests(SMALL if chosen.small else CARD, device, torch.bfloat16):
        for found in results(contest, device):
            print(json.dumps(asdict(found)), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
