"""What is kept of samples, and for how long; the rest is in tests/protocol/test_provenance.py."""

import pytest
from engine_material import picture_prompt, request, rollout_datum

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.provenance import KEPT_FOR_S, ProvenanceTable
from visual_r1.engine.types import Datum, InvalidRequest, Provenance, SampleOutput, Span

PROMPT = picture_prompt(1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def datum_of(output: SampleOutput, name: str, length: int) -> Datum:
    """That of the first sequence, with its provenance; the prompt has so many places."""
    made = rollout_datum(PROMPT, output.sequences[0], 1.0)
    tokens = len(output.sequences[0].tokens)
    read = Span(name, False, 0, length), Span(name, True, 0, tokens - 1)
    targets = Span(name, False, 1, length - 1), Span(name, True, 0, tokens)
    return Datum(made.prompt, made.inputs, Provenance(read, targets))


def test_a_record_lives_for_a_day_after_its_last_use_and_no_longer_than_its_session(
    compute: Compute,
) -> None:
    clock = Clock()
    table = ProvenanceTable(compute, clock)
    [output] = compute.sample(None, [request(PROMPT, samples=1)])
    assert isinstance(output, SampleOutput)
    for name in ("a:sample:0:1", "b:sample:0:1"):
        table.add(name, PROMPT, output, record=True)
    data = [datum_of(output, "a:sample:0:1:0", compute.layout(PROMPT).length)]
    live = {"a", "b"}
    for _ in range(2):  # each use begins the day anew
        clock.now += 0.9 * KEPT_FOR_S
        table.sweep(live)
        table.check("a", "importance_sampling", data)
    with pytest.raises(InvalidRequest, match="was sampled in another session"):
        table.check("b", "importance_sampling", data)
    theirs = [datum_of(output, "b:sample:0:1:0", compute.layout(PROMPT).length)]
    with pytest.raises(InvalidRequest, match="or not within a day: sample again"):
        table.check("b", "importance_sampling", theirs)  # nobody has used that one
    table.add("b:sample:0:2", PROMPT, output, record=False)
    table.sweep({"b"})  # a's client has gone
    with pytest.raises(InvalidRequest, match="has not sampled"):
        table.check("a", "importance_sampling", data)
    table.forget("b")
    table.sweep(live)
    assert not table._sampled  # pyright: ignore[reportPrivateUsage]


def test_the_prompt_differs_where_its_image_does(compute: Compute) -> None:
    table = ProvenanceTable(compute)
    [output] = compute.sample(None, [request(PROMPT, samples=1)])
    assert isinstance(output, SampleOutput)
    table.add("a:sample:0:1", PROMPT, output, record=True)
    good = datum_of(output, "a:sample:0:1:0", compute.layout(PROMPT).length)
    table.check("a", "ppo", [good])
    before, _, after = PROMPT
    other = (before, picture_prompt(2)[1], after, *good.prompt[3:])
    with pytest.raises(InvalidRequest, match="datum 1: it has other tokens than the prompt"):
        table.check("a", "ppo", [good, Datum(other, good.inputs, good.provenance)])
