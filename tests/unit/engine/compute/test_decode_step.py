"""The parts of a decode step on a CPU: what they compute, and that nobody's company changes it."""

from collections.abc import Callable, Sequence

import pytest
import torch
from engine_material import picture_prompt, request, words
from torch import Tensor

from visual_r1.engine.compute.cache import Kept, PromptCache
from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.families import products
from visual_r1.engine.compute.families.joint_attention import JointAttention
from visual_r1.engine.compute.sampling import SamplingRules, all_logprobs, next_tokens
from visual_r1.engine.compute.shared_prefix import SharedCache
from visual_r1.engine.types import LoraSpec, SampleOutput, SamplingSettings
from visual_r1.models import TINY_GEOMETRY

KEY_HEADS, SHARED, WIDTH = 2, 2, 32
HEADS = KEY_HEADS * SHARED


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Question:
    """A prompt, and rows that have answered it with so many tokens by now."""

    def __init__(self, seed: int, prompt: int, answers: Sequence[int]) -> None:
        self.length, self.counts = prompt, answers
        padded = -(-prompt // 32) * 32
        kept = Kept(tuple(drawn(seed + n, 1, KEY_HEADS, padded, WIDTH) for n in (0, 1)), True)
        self.prompt = PromptCache([kept], padded)
        self.own = [
            [drawn(seed + 10 + 2 * row + n, KEY_HEADS, count, WIDTH) for n in (0, 1)]
            for row, count in enumerate(answers)
        ]
        self.queries = [drawn(seed + 100 + row, HEADS, WIDTH) for row in range(len(answers))]

    def exact(self, row: int) -> Tensor:
        """[key heads, shared, width] in float64."""
        keys, values = (
            torch.cat([kept[0, :, : self.length], own], 1).double()
            for kept, own in zip(self.prompt.layers[0].tensors, self.own[row], strict=True)
        )
        queries = self.queries[row].view(KEY_HEADS, SHARED, WIDTH).double()
        return torch.softmax(queries @ keys.transpose(1, 2), -1) @ values


def attended(questions: Sequence[Question]) -> list[list[Tensor]]:
    """What attention gives for each row of each question, all of them side by side."""
    cache = SharedCache(0, 0, 32, torch.device("cpu"), torch.float32, joint=True)
    rows = sum(len(one.counts) for one in questions)
    vectors = torch.zeros(rows, HEADS, WIDTH)
    first = 0
    places = max(max(one.counts) for one in questions)
    for one in questions:
        here = list(range(first, first + len(one.counts)))
        cache.join(here, one.prompt, [0] * len(here), torch.tensor([one.length]))
        first += len(here)
    cache.show(rows, places)
    mask = torch.full((rows, 1, 1, cache.answers.seen), -torch.inf)
    first = 0
    for one in questions:
        for row, (keys, values) in enumerate(one.own):
            for whole, own in zip(cache.answers.views(0), (keys, values), strict=True):
                whole[first + row, :, : one.counts[row]] = own
            mask[first + row, ..., : one.counts[row]] = 0
            vectors[first + row] = one.queries[row]
        first += len(one.counts)
    out = torch.empty(rows, KEY_HEADS, SHARED, WIDTH)
    layout = cache.layout(HEADS, KEY_HEADS, HEADS)
    joint = JointAttention([cache.answers.views(0)], [cache.prompt_views(0)], mask, out)
    joint.take_layout(layout, cache.prompt_mask)
    joint.attend(0, vectors.view(out.shape))
    found = list(out)
    return [[found.pop(0) for _ in one.counts] for one in questions]


def test_attention_is_exact_and_the_same_alone_and_beside_longer_ones() -> None:
    """Across the lengths at which a product's order of addition would change."""
    questions = [
        Question(1000 * number, prompt, answers)
        for number, (prompt, answers) in enumerate(
            [(57, [1, 33, 64]), (640, [300]), (130, list(range(20, 31))), (250, [700, 5])]
        )
    ]
    together = attended(questions)
    for one, rows in zip(questions, together, strict=True):
        (alone,) = attended([one])
        for row, (found, single) in enumerate(zip(rows, alone, strict=True)):
            assert torch.equal(found, single)
            assert (found - one.exact(row)).abs().max() < 1e-5


def test_packed_weights_give_the_same_in_any_company(
    compute: Compute, trained: Callable[[LoraSpec], Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    weights = compute.freeze(trained(LoraSpec(rank=8, seed=1)))
    monkeypatch.setattr(products, "PACKED_FROM", 1)
    packed = Compute(TINY_GEOMETRY, device="cpu", threads=1)
    wanted = [request(picture_prompt(n), samples=5, seed=n, max_tokens=12) for n in range(3)]
    for held in (None, weights):
        plain = compute.sample(held, wanted[:1])
        (alone,) = packed.sample(held, wanted[:1])
        among = packed.sample(held, [request((words(3, 40),), samples=16), *wanted])
        assert among[1] == alone and isinstance(alone, SampleOutput)
        assert isinstance(plain[0], SampleOutput)
        for ours, theirs in zip(alone.sequences, plain[0].sequences, strict=True):
            assert ours.tokens == theirs.tokens
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)


def test_a_number_takes_the_token_at_which_the_sum_exceeds_it() -> None:
    """Of vocabularies that fill their blocks and that do not, and never one that weighs nothing."""
    for vocabulary in (5, 32, 100, 768):
        logits = drawn(vocabulary, 64, vocabulary) * 4
        logits[:, ::3] = -torch.inf
        settings = [SamplingSettings(1)] * 64
        rules = SamplingRules.of(settings, vocabulary, logits.device)
        numbers = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        numbers[:3] = torch.tensor([0.0, 1 - 2**-53, 1 - 2**-40])
        tokens, logprobs = next_tokens(logits, rules, numbers)
        exact = torch.log_softmax(logits.double(), -1)
        of_token = exact.gather(1, tokens[:, None])[:, 0]
        assert torch.isfinite(of_token).all()
        assert (of_token - logprobs).abs().max() < 2e-6
        upto = exact.exp().cumsum(1).gather(1, tokens[:, None])[:, 0]
        assert (upto >= numbers - 1e-6).all()
        assert (upto - of_token.exp() <= numbers + 1e-6).all()


def test_weights_that_are_no_numbers_choose_a_token_that_says_so() -> None:
    for vocabulary in (5, 100):
        logits = torch.full((3, vocabulary), torch.nan)
        settings = [SamplingSettings(1), SamplingSettings(1, temperature=0.5), SamplingSettings(1)]
        rules = SamplingRules.of(settings, vocabulary, logits.device)
        tokens, logprobs = next_tokens(logits, rules, torch.full((3,), 0.5, dtype=torch.float64))
        assert ((tokens >= 0) & (tokens < vocabulary)).all()
        assert torch.isnan(logprobs).all()


def test_all_log_probabilities_have_the_bits_of_the_chosen_one() -> None:
    logits = drawn(3, 64, 768) * 6
    rules = SamplingRules.of([SamplingSettings(1)] * 64, 768, logits.device)
    tokens, logprobs = next_tokens(logits, rules, torch.rand(64, dtype=torch.float64))
    assert torch.equal(all_logprobs(logits).gather(1, tokens[:, None])[:, 0], logprobs)
