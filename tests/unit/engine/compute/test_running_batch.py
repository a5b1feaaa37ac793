"""A running batch in little memory: what fits, what waits, and what happens when there is none."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import ReferenceType, WeakSet, ref

import pytest
import torch
from engine_material import FAMILIES, picture_prompt, request, words

from visual_r1.engine.compute import running
from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.cache import Kept, PromptCache, RowCache
from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.decode import Decoding
from visual_r1.engine.compute.families.lean import LeanQwen3
from visual_r1.engine.compute.prefill import Prefill, prefill
from visual_r1.engine.compute.running import Progress, RunningBatch
from visual_r1.engine.compute.sample_plan import SamplePlan
from visual_r1.engine.types import InvalidRequest, LoraSpec, SampleRequest, SamplingSettings

ASKED = [request(picture_prompt(n, 5 + 9 * n), samples=5, seed=n) for n in range(4)]


def drained(batch: RunningBatch) -> list[Progress]:
    passed: list[Progress] = []
    while not batch.idle:
        passed.append(batch.advance())
    return passed


def most_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    run = Decoding.run

    def watched(self: Decoding):
        seen.append(self.alive)
        return run(self)

    monkeypatch.setattr(Decoding, "run", watched)
    return seen


@FAMILIES
def test_free_memory_decides_how_many_rows_there_are(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of the answers."""
    plenty = compute.sample(None, ASKED)
    seen = most_rows(monkeypatch)
    batch = compute.open_batch(None, plannable=lambda: 0)
    tickets = [batch.admit(wanted) for wanted in ASKED]
    assert batch.free_rows == 0
    answers = {one.ticket: one.output for one in sum((p.answered for p in drained(batch)), ())}
    assert [answers[ticket] for ticket in tickets] == plenty
    # A batch has its rows by sixteens.
    assert max(seen) <= 16 < sum(wanted.num_samples for wanted in ASKED)


@pytest.mark.parametrize(
    ("compute", "prompt"), [("qwen3_vl", 20), ("qwen3_5", 200)], indirect=["compute"]
)
def test_free_memory_is_planned_with_once(
    compute: Compute, monkeypatch: pytest.MonkeyPatch, prompt: int
) -> None:
    """Rows come to their full length in the memory that there is, and none begins anew."""
    tokens, row = 400, compute._base.cache_bytes
    memory = 40 * (row.of(prompt + tokens) + running.LOGITS_BYTES * compute.vocabulary_size)
    caches: WeakSet[RowCache] = WeakSet()
    taken = [0]
    begin, widen = RowCache.__init__, RowCache._widen

    def held() -> int:
        return sum(row.of(places) * rows for rows, places in (one.capacity for one in caches))

    def begun(self: RowCache, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        caches.add(self)

    def widened(self: RowCache, rows: int, places: int) -> None:
        widen(self, rows, places)
        taken.append(held())

    monkeypatch.setattr(RowCache, "__init__", begun)
    monkeypatch.setattr(RowCache, "_widen", widened)
    seen = most_rows(monkeypatch)
    batch = compute.open_batch(None, plannable=lambda: int(0.9 * max(0, memory - held())))
    asked = [
        request((words(n, prompt),), 1, max_tokens=tokens, stop_at_eos=False) for n in range(48)
    ]
    for wanted in asked:
        batch.admit(wanted)
    drained(batch)
    assert max(seen) == 32
    assert max(taken) <= memory


def test_a_cache_that_grows_keeps_no_old_memory_beside_the_new(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But of one layer at a time."""
    made: list[ReferenceType[torch.Tensor]] = []
    most: list[int] = []
    room = RowCache._room

    def watched(self: RowCache, *given: Any) -> Kept:
        kept = room(self, *given)
        made.extend(map(ref, kept.tensors))
        most.append(sum(one() is not None for one in made))
        return kept

    batch = compute.open_batch(None)
    batch.admit(request((words(1, 20),), samples=1, max_tokens=600, stop_at_eos=False))
    monkeypatch.setattr(RowCache, "_room", watched)
    batch.advance(1)
    at_first, held = len(made), sum(one() is not None for one in made)
    drained(batch)
    assert len(made) > at_first, "it has grown"
    assert max(most) == held + 2


def test_what_is_admitted_beyond_the_rows_waits(compute: Compute) -> None:
    batch = compute.open_batch(None)
    whole = batch.free_rows
    assert whole > 1
    batch.admit(request(picture_prompt(1), samples=whole + 50, max_tokens=3, stop_at_eos=False))
    assert batch.free_rows == 0
    (progress,) = drained(batch)
    assert len(progress.answered[0].output.sequences) == whole + 50  # type: ignore[union-attr]
    assert batch.free_rows == whole


@pytest.mark.parametrize("rows", [1, 7])
@FAMILIES
def test_without_memory_the_batch_is_smaller_and_says_so(
    compute: Compute,
    trained: Callable[[LoraSpec], Adapter],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    """Answers that were cut off half-way come out as if nothing had been."""
    weights = compute.freeze(trained(LoraSpec(rank=8, seed=1)))
    plenty = compute.sample(weights, ASKED)
    fails_beyond(monkeypatch, rows)
    batch = compute.open_batch(weights)
    tickets = [batch.admit(wanted) for wanted in ASKED]
    passed = drained(batch)
    answers = {one.ticket: one.output for progress in passed for one in progress.answered}
    assert [answers[ticket] for ticket in tickets] == plenty
    said = [sentence for progress in passed for sentence in progress.said]
    assert said
    assert "Memory ran out with 20 samples at work" in said[0]


def test_who_has_no_memory_waits_for_what_others_hold(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so once, however often it is asked to go on."""
    plenty = compute.sample(None, ASKED)
    first, second = compute.open_batch(None), compute.open_batch(None)
    only_one_at_a_time(monkeypatch, first)
    first.admit(request((words(1, 9),), max_tokens=60, stop_at_eos=False))
    first.advance(1)
    tickets = [second.admit(wanted) for wanted in ASKED]
    passed = [second.advance() for _ in range(12)]
    assert not any(progress.answered for progress in passed)
    said = [sentence for progress in passed for sentence in progress.said]
    assert sum("it waits until they give it back" in sentence for sentence in said) == 1
    drained(first)
    answers = {one.ticket: one.output for p in drained(second) for one in p.answered}
    assert [answers[ticket] for ticket in tickets] == plenty


def test_who_waits_begins_when_there_is_more_memory(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the others go on."""
    free = [0]
    first, second = compute.open_batch(None), compute.open_batch(None, plannable=lambda: free[0])
    only_one_at_a_time(monkeypatch, first)
    first.admit(request((words(1, 9),), max_tokens=60, stop_at_eos=False))
    first.advance(1)
    second.admit(request((words(2, 9),), samples=1))
    assert "it waits" in second.advance().said[0]
    monkeypatch.undo()
    assert second.advance() == Progress()
    free[0] = 2**30
    assert drained(second)[-1].answered
    assert not first.idle


def test_a_call_that_answers_all_at_once_does_not_wait(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could advance the batch that holds the memory."""
    first = compute.open_batch(None)
    only_one_at_a_time(monkeypatch, first)
    first.admit(request((words(1, 9),), max_tokens=60, stop_at_eos=False))
    first.advance(1)
    assert isinstance(compute.sample(None, [request((words(2, 9),))])[0], InvalidRequest)


def only_one_at_a_time(monkeypatch: pytest.MonkeyPatch, first: RunningBatch) -> None:
    """No other batch finds memory while the first one holds some."""
    begin = Decoding.__init__

    def short_of_memory(self: Decoding, *given: Any, **named: Any) -> None:
        if first._decoding is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        begin(self, *given, **named)

    monkeypatch.setattr(Decoding, "__init__", short_of_memory)


def test_what_fits_nowhere_is_told_to_its_client_alone(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = request((words(1, 9),), samples=1)
    plenty = compute.sample(None, [good])
    fails_beyond(monkeypatch, 0, of_prompt=len(words(1, 9).tokens) + 1)
    outputs = compute.sample(None, [request(picture_prompt(3), samples=2), good])
    assert isinstance(outputs[0], InvalidRequest)
    assert "no memory on cpu for one answer of up to 24 tokens" in str(outputs[0])
    assert outputs[1:] == plenty


def test_a_shortage_while_an_adapter_is_prepared_is_one_as_any_other(
    compute: Compute, trained: Callable[[LoraSpec], Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = compute.freeze(trained(LoraSpec(rank=8, seed=1)))
    plenty = compute.sample(weights, ASKED)
    short = [True]
    real = LeanQwen3.prepared

    def prepared(self: LeanQwen3, adapter: Any) -> Any:
        if short:
            short.clear()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, adapter)

    monkeypatch.setattr(LeanQwen3, "prepared", prepared)
    batch = compute.open_batch(compute.freeze(trained(LoraSpec(rank=8, seed=1))))
    tickets = [batch.admit(wanted) for wanted in ASKED]
    passed = drained(batch)
    answers = {one.ticket: one.output for progress in passed for one in progress.answered}
    assert [answers[ticket] for ticket in tickets] == plenty
    assert "Memory ran out with 20 samples at work" in passed[0].said[0]


@pytest.mark.parametrize("samples", [0, 1])
def test_prompts_that_do_not_fit_together_are_read_one_after_another(
    compute: Compute, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """Also those that nothing but scores is asked of."""
    settings = SamplingSettings(max_tokens=1, seed=1)
    asked = [SampleRequest((words(n, 20),), settings, samples, True) for n in range(16)]
    plenty = compute.sample(None, asked)

    def short_of_memory(base: BaseModel, plans: Sequence[SamplePlan], *others: Any) -> Prefill:
        if len(plans) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return prefill(base, plans, *others)

    monkeypatch.setattr(running, "prefill", short_of_memory)
    assert compute.sample(None, asked) == plenty


def test_the_length_of_answers_that_nobody_asks_for_takes_no_room(compute: Compute) -> None:
    free: set[int] = set()
    for most in (1, 3000):
        batch = compute.open_batch(None, plannable=lambda: 2**22)
        batch.admit(SampleRequest((words(1, 20),), SamplingSettings(most), 0, True))
        free.add(batch.free_rows)
    assert len(free) == 1


def test_an_error_that_is_not_of_memory_is_no_reason_to_go_on(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Decoding, "run", broken)
    batch = compute.open_batch(None)
    batch.admit(ASKED[0])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        batch.advance()


def test_prompts_are_kept_once(compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as all samples have a row, what the prompts' own pass left is gone."""
    passes: list[ReferenceType[PromptCache]] = []

    def watched(*given: Any) -> Prefill:
        read = prefill(*given)
        passes.append(ref(read.cache))
        return read

    monkeypatch.setattr(running, "prefill", watched)
    batch = compute.open_batch(None)
    batch.admit(request(picture_prompt(1), samples=3, max_tokens=40, stop_at_eos=False))
    batch.advance(steps=2)
    assert not batch.idle
    assert [one() for one in passes] == [None]


def test_a_dropped_request_ends_and_is_not_answered(compute: Compute) -> None:
    batch = compute.open_batch(None)
    long = SampleRequest(ASKED[0].prompt, request((), max_tokens=900).settings, 4)
    dropped, kept = batch.admit(long), batch.admit(ASKED[1])
    batch.advance(steps=2)
    batch.drop(dropped)
    passed = drained(batch)
    assert [one.ticket for progress in passed for one in progress.answered] == [kept]


def fails_beyond(monkeypatch: pytest.MonkeyPatch, rows: int, of_prompt: int = 0) -> None:
    """Memory runs out in the third look at more than so many rows, of prompts that are longer."""
    run = Decoding.run
    looks = [0]

    def short_of_memory(self: Decoding):
        looks[0] += 1
        there = [one for one in self._sequences if one is not None]
        longest = max(one.plan.layout.length for one in there)
        if looks[0] > 2 and len(there) > rows and longest > of_prompt:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return run(self)

    monkeypatch.setattr(Decoding, "run", short_of_memory)
