"""What others keep for parts of our computation is compared on the same work as ours."""

from typing import Any

import pytest
import torch
from benchmark_modules import benchmark_module
from torch import Tensor

# torch's own, where parts of it are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels() -> Any:
    return benchmark_module("beside.kernels")


def dense(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[heads, L, d] over [key heads, T, d] where `mask` [L, T] is true."""
    return torch.nn.functional.scaled_dot_product_attention(
        queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
    )[0]


def test_flex_attention_is_asked_for_what_our_learner_sees(kernels: Any) -> None:
    sizes = kernels.SMALL
    prompts = kernels.Prompts(sizes, CPU, torch.float32)
    places = torch.arange(prompts.packing.places)
    mask = kernels.seen(prompts)(places, places, places[:, None], places)
    queries, keys, values = (part[0] for part in prompts.parts)
    whole = dense(queries, keys, values, mask).transpose(0, 1)[None]
    ours = next(iter(kernels.attention(sizes, CPU, torch.float32).values()))()
    assert kernels.apart(prompts.learnt(whole), ours) < 1e-5


def test_stretches_of_places_are_what_our_learner_sees(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def varlen(
        queries: Tensor, keys: Tensor, values: Tensor, ends: Tensor, key_ends: Tensor,
        longest: int, longest_keys: int, **how: Any,
    ) -> Tensor:  # fmt: skip
        assert how["window_size"] == (-1, 0)
        outputs: list[Tensor] = []
        spans = zip(ends[:-1], ends[1:], key_ends[:-1], key_ends[1:], strict=True)
        for start, end, first, last in spans:
            count, seen = int(end - start), int(last - first)
            assert count <= longest and seen <= longest_keys
            mask = torch.ones(count, seen, dtype=torch.bool).tril(seen - count)
            parts = (queries[start:end], keys[first:last], values[first:last])
            output = dense(*(part.transpose(0, 1) for part in parts), mask)
            outputs.append(output.transpose(0, 1))
        return torch.cat(outputs)

    from torch.nn.attention import varlen as module

    monkeypatch.setattr(module, "varlen_attn", varlen)
    ours, *_ = works = list(kernels.attention(kernels.SMALL, CPU, torch.float32).values())
    assert kernels.apart(works[2](), ours()) < 1e-5


def test_experts_and_log_probabilities_come_out_alike(kernels: Any) -> None:
    sizes = kernels.SMALL
    for back in (True, False):
        ours, peft, *_ = kernels.experts(sizes, CPU, torch.float32, 32, back).values()
        assert kernels.apart(peft(), ours()) < 1e-5
    works = kernels.vocabulary(sizes, CPU, torch.bfloat16)
    ours, plainly, *_ = works.values()
    assert kernels.apart(plainly(), ours()) < 1e-2


def test_what_is_not_here_says_why_and_the_others_go_on(kernels: Any) -> None:
    def missing() -> list[Tensor]:
        import no_such_library  # pyright: ignore[reportMissingImports]

        return no_such_library.run()

    one = torch.ones(2)
    contest = kernels.Contest("w", {"ours": lambda: [one], "a": missing, "b": lambda: [2 * one]})
    ours, first, second = kernels.results(contest, CPU)
    assert (ours.apart, first.seconds, second.apart) == (0.0, None, 1.0)
    assert "no_such_library" in first.why_not
