"""What is sampled: against the learner, against the distribution, and where it ends."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from engine_material import FAMILIES, picture_prompt, png, request, rollout_datum, words
from scipy import stats

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.sample_plan import StopRule
from visual_r1.engine.compute.sampling import stream
from visual_r1.engine.types import (
    ImagePart,
    LoraSpec,
    Prompt,
    SampledSequence,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
    TextPart,
)
from visual_r1.models import TINY_GEOMETRY
from visual_r1.models.processor import load_processor

PROMPT = picture_prompt(2)


def sample_one(compute: Compute, wanted: SampleRequest) -> SampleOutput:
    (output,) = compute.sample(None, [wanted])
    assert isinstance(output, SampleOutput)
    return output


def next_token_logprobs(compute: Compute, prompt: Prompt) -> np.ndarray:
    """The model's distribution after a prompt, read off the learner's side of the engine."""
    output = sample_one(
        compute,
        SampleRequest(
            (*prompt, TextPart((5,))), SamplingSettings(1), 0, False, compute.vocabulary_size
        ),
    )
    assert output.topk_prompt_logprobs is not None
    last = output.topk_prompt_logprobs[-1]
    assert last is not None
    logprobs = np.full(compute.vocabulary_size, -np.inf)
    for token, logprob in last:
        logprobs[token] = logprob
    return logprobs


@pytest.mark.parametrize(
    ("compute", "temperature"),
    [("qwen3_vl", 1.0), ("qwen3_vl", 0.6), ("qwen3_vl", 0.0), ("qwen3_5", 0.6)],
    indirect=["compute"],
)
def test_the_learner_sees_the_sampler_s_logprobs(
    compute: Compute, trained: Callable[[LoraSpec], Adapter], temperature: float
) -> None:
    """At every temperature what is returned is the model's own log-probability."""
    adapter = trained(LoraSpec(rank=8, seed=1))
    prompts = [picture_prompt(seed, 20 + seed, 30) for seed in range(4)] + [(words(9, 40),)]
    outputs = compute.sample(
        compute.freeze(adapter),
        [request(p, max_tokens=60, temperature=temperature, top_p=0.95) for p in prompts],
    )
    data = [
        rollout_datum(prompt, sequence, 1.0)
        for prompt, output in zip(prompts, outputs, strict=True)
        if isinstance(output, SampleOutput)
        for sequence in output.sequences
    ]
    assert len(data) == 20
    learnt = compute.forward(adapter, data, "importance_sampling", {}, backward=False)
    for datum, logprobs in zip(data, learnt.logprobs, strict=True):
        sampled = datum.inputs["advantages"] != 0
        assert np.abs(logprobs - datum.inputs["logprobs"])[sampled].max() < 1e-4
    assert learnt.metrics["ratio:max"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 30, "top_p": 0.8}],
    ids=str,
)
def test_tokens_follow_the_distribution(compute: Compute, settings: dict[str, float]) -> None:
    """First tokens of 4,000 samples against the exact distribution, by a chi-squared test."""
    logprobs = next_token_logprobs(compute, PROMPT)
    exact = expected_distribution(logprobs, **settings)
    output = sample_one(compute, request(PROMPT, samples=4000, max_tokens=1, **settings))
    seen = Counter(sequence.tokens[0] for sequence in output.sequences)
    assert set(seen) <= set(np.flatnonzero(exact))
    common = np.flatnonzero(exact * 4000 >= 5)
    counts = np.array([seen[token] for token in common] + [0])
    counts[-1] = 4000 - counts.sum()
    wanted = np.append(exact[common], max(1 - exact[common].sum(), 0)) * 4000
    kept = wanted > 0
    assert stats.chisquare(counts[kept], wanted[kept] * (4000 / wanted[kept].sum())).pvalue > 1e-4
    for sequence in output.sequences[:50]:
        assert sequence.logprobs[0] == pytest.approx(logprobs[sequence.tokens[0]], abs=1e-4)


def expected_distribution(
    logprobs: np.ndarray, temperature: float = 1.0, top_k: int = -1, top_p: float = 1.0
) -> np.ndarray:
    scaled = np.exp(logprobs / temperature)
    order = np.argsort(-scaled, kind="stable")
    if top_k > 0:
        scaled[order[top_k:]] = 0.0
    scaled /= scaled.sum()
    reached = np.cumsum(scaled[order])
    needed = int(np.searchsorted(reached, top_p)) + 1
    scaled[order[needed:]] = 0.0
    return scaled / scaled.sum()


def test_neighbouring_seeds_of_64_bits_are_others() -> None:
    for one, other in ((-1, -2), (2**63, 2**63 + 1), (-(2**63), -(2**63) + 1)):
        assert stream(one, 0).random() != stream(other, 0).random()


def test_each_token_takes_the_next_number_of_its_stream(compute: Compute) -> None:
    """Token t of sample j inverts the distribution at number t of Philox keyed by (seed, j)."""
    wanted = request(PROMPT, samples=3, max_tokens=70, seed=11, stop_at_eos=False)
    for index, sequence in enumerate(sample_one(compute, wanted).sequences):
        stream = np.random.Generator(np.random.Philox(key=[11, index]))
        whole = (*PROMPT, TextPart(sequence.tokens))
        scores = SampleRequest(whole, SamplingSettings(1), 0, False, compute.vocabulary_size)
        rows = sample_one(compute, scores).topk_prompt_logprobs
        assert rows is not None
        for row, token in zip(rows[-70:], sequence.tokens, strict=True):
            assert row is not None
            below = sum(np.exp(logprob) for other, logprob in row if other < token)
            upto = below + np.exp(dict(row)[token])
            assert below - 1e-4 <= stream.random() <= upto + 1e-4


def test_greedy_takes_the_likeliest_each_time(compute: Compute) -> None:
    output = sample_one(compute, request(PROMPT, samples=2, temperature=0.0, max_tokens=12))
    first, second = output.sequences
    assert first == second
    prompt = PROMPT
    for token in first.tokens:
        assert token == int(next_token_logprobs(compute, prompt).argmax())
        prompt = (*prompt, TextPart((token,)))


@pytest.mark.parametrize(
    "tiny", [{"temperature": 2e-38}, {"temperature": 1e-46}, {"top_p": 1e-46}], ids=str
)
def test_numbers_too_small_for_float32_take_the_likeliest(
    compute: Compute, tiny: dict[str, float]
) -> None:
    """Alone, and beside a request whose numbers are ordinary."""
    greedy = sample_one(compute, request(PROMPT, samples=1, temperature=0.0))
    wanted = request(PROMPT, samples=1, **tiny)
    assert sample_one(compute, wanted) == greedy
    assert compute.sample(None, [wanted, request(PROMPT, top_p=0.5)])[0] == greedy


def test_alternatives_at_a_temperature_too_small_for_float32_are_the_likeliest(
    compute: Compute,
) -> None:
    rows = [
        SampleRequest(PROMPT, SamplingSettings(1, temperature=t, seed=1), 0, prompt_alt_tokens=2)
        for t in (0.0, 1e-46)
    ]
    greedy, tiny = (sample_one(compute, wanted).prompt_alt_tokens for wanted in rows)
    assert greedy is not None and tiny is not None
    assert np.array_equal(greedy.tokens, tiny.tokens)


def test_equally_likely_tokens_come_in_the_order_that_they_come_in_alone(compute: Compute) -> None:
    """Whatever others ask for at the same time."""
    for seed in range(4):
        prompt = (words(seed, 10),)
        settings = SamplingSettings(12, seed=seed, stop_at_eos=False)
        many, more = (
            SampleRequest(prompt, settings, 1, topk_sample_logprobs=k) for k in (400, 700)
        )
        assert compute.sample(None, [many, more])[0] == sample_one(compute, many)


@FAMILIES
def test_prompt_logprobs_are_those_of_the_same_tokens_sampled(compute: Compute) -> None:
    """Scoring prompt + answer gives the answer's log-probabilities again."""
    sampled = sample_one(compute, request(PROMPT, samples=1, max_tokens=20)).sequences[0]
    whole = (*PROMPT, TextPart(sampled.tokens))
    scored = sample_one(compute, SampleRequest(whole, SamplingSettings(1), 1, True))
    assert scored.prompt_logprobs is not None
    assert scored.prompt_logprobs[0] is None
    tail = scored.prompt_logprobs[-len(sampled.tokens) :]
    assert tail == pytest.approx(sampled.logprobs, abs=1e-4)


class TestStopping:
    """An answer ends with the token that completes it, which is returned."""

    def long(self, compute: Compute, **settings: object) -> SampledSequence:
        given = {"samples": 1, "max_tokens": 80, "temperature": 1.3, "stop_at_eos": False}
        return sample_one(compute, request(PROMPT, **{**given, **settings})).sequences[0]

    def test_at_max_tokens(self, compute: Compute) -> None:
        free = self.long(compute)
        assert len(free.tokens) == len(free.logprobs) == 80
        assert free.stop_reason == "length"

    def test_at_a_stop_token(self, compute: Compute) -> None:
        free = self.long(compute)
        token = free.tokens[33]
        cut = self.long(compute, stop_tokens=(token,))
        end = free.tokens.index(token) + 1
        assert cut.tokens == free.tokens[:end]
        assert cut.logprobs == free.logprobs[:end]
        assert cut.stop_reason == "stop"

    def test_at_the_model_s_own_end_unless_told(self, compute: Compute) -> None:
        ends = load_processor(TINY_GEOMETRY).stop_token_ids
        hot = {"samples": 8, "max_tokens": 300, "temperature": 2.0}
        whole = sample_one(compute, request(PROMPT, **hot, stop_at_eos=False)).sequences
        usual = sample_one(compute, request(PROMPT, **hot)).sequences
        assert all(s.stop_reason == "length" for s in whole)
        ended = [s for s in usual if s.stop_reason == "stop"]
        assert ended
        assert all(s.tokens[-1] in ends and not {*s.tokens[:-1]} & {*ends} for s in ended)
        for early, late in zip(usual, whole, strict=True):
            assert early.tokens == late.tokens[: len(early.tokens)]

    def test_at_a_string_across_tokens(self, compute: Compute) -> None:
        decode = load_processor(TINY_GEOMETRY).decode
        free = self.long(compute)
        text = decode(free.tokens)
        start = next(i for i in range(20, len(text)) if text[i : i + 3].isascii())
        stop = text[start : start + 3]
        cut = self.long(compute, stop_strings=("never that", stop))
        assert cut.stop_reason == "stop"
        assert cut.tokens == free.tokens[: len(cut.tokens)]
        assert stop in decode(cut.tokens)
        assert stop not in decode(cut.tokens[:-1])

    def test_of_a_long_answer_the_end_alone_is_looked_at(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_at: list[int] = []
        completes = StopRule.completes

        def watched(self: StopRule, answer: Sequence[int]) -> bool:
            looked_at.append(len(answer))
            return completes(self, answer)

        monkeypatch.setattr(StopRule, "completes", watched)
        assert len(self.long(compute, stop_strings=("never that",)).tokens) == 80
        assert max(looked_at) == len("never that")

    def test_at_a_character_of_several_tokens(self, compute: Compute) -> None:
        """Each byte of it may be a token: the answer goes on until the last one."""
        processor = load_processor(TINY_GEOMETRY)
        free = self.long(compute)
        pieces = processor.encode("∮")
        assert len(pieces) > 1
        rule = StopRule(frozenset(), ("∮",), processor.decode)
        answer = (*free.tokens, *pieces)
        assert not rule.completes(answer[:-1])
        assert rule.completes(answer)


def test_max_tokens_none_fills_the_context(compute: Compute) -> None:
    prompt = (words(1, compute.context_length - 3),)
    output = sample_one(compute, request(prompt, samples=1, max_tokens=None, stop_at_eos=False))
    assert len(output.sequences[0].tokens) == 3


def test_sampled_image_ids_are_text(compute: Compute) -> None:
    """A policy may emit the image token's id; it is embedded as a token, no image is looked for."""
    pad = load_processor(TINY_GEOMETRY).image_token_id
    prompt = (words(1, 4), TextPart((pad, pad, 7)), ImagePart(png(3)), words(2, 5))
    output = sample_one(compute, request(prompt, samples=2))
    assert len(output.sequences) == 2
    without = (words(1, 4), TextPart((8, 8, 7)), ImagePart(png(3)), words(2, 5))
    assert sample_one(compute, request(without, samples=2)) != output


def test_compaction_and_growth_change_nothing(compute: Compute) -> None:
    """Samples that end early and late, over several blocks of the cache, against short runs."""
    late = [request(PROMPT, samples=1, max_tokens=n, seed=n, stop_at_eos=False) for n in (3, 150)]
    many = [
        request(PROMPT, samples=1, max_tokens=n, seed=n, stop_at_eos=False) for n in range(1, 151)
    ]
    outputs = compute.sample(None, many)
    assert outputs[2] == sample_one(compute, late[0])
    assert outputs[149] == sample_one(compute, late[1])
    for index, output in enumerate(outputs):
        assert isinstance(output, SampleOutput)
        assert len(output.sequences[0].tokens) == index + 1
