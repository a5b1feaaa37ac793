"""What has been computed goes at once: no tensor waits for the garbage collector.

The collector counts objects. One that holds a batch's caches, on a card perhaps, might lie for long
before there are enough of them.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from engine_material import FAMILIES, picture_prompt, png, request, rollout_datum
from PIL import Image

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.types import ImagePart, InvalidRequest, LoraSpec, SampledSequence, TextPart

BROKEN = png(0)[:-40]


@contextmanager
def no_cycles() -> Iterator[None]:
    """Nothing that the block leaves behind is in a cycle and holds a tensor or a picture."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(one).__name__ for one in gc.garbage)
        held = [one for one in gc.garbage if isinstance(one, torch.Tensor | Image.Image)]
        assert not held, f"{len(held)} of {left.most_common(12)}"
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@FAMILIES
def test_a_batch_and_a_training_call_leave_no_tensor_in_a_cycle(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    adapter = trained(LoraSpec(rank=4, seed=1))
    weights = compute.freeze(adapter)
    requests = [request(picture_prompt(seed), samples=3) for seed in range(2)]
    for _ in range(2):
        with no_cycles():
            outputs = compute.sample(None, requests) + compute.sample(weights, requests)
            answers = [one for output in outputs for one in output.sequences]  # type: ignore[union-attr]
            assert all(isinstance(one, SampledSequence) for one in answers)
            data = [rollout_datum(requests[0].prompt, one, 1.0) for one in answers[:3]]
            compute.forward(adapter, data, "importance_sampling", {}, backward=True)
            del outputs, answers, data


def test_an_image_that_cannot_be_used_leaves_nothing(compute: Compute) -> None:
    batch = compute.open_batch(None)
    with no_cycles(), suppress(InvalidRequest):
        batch.admit(request((TextPart((5,)), ImagePart(BROKEN))))
        raise AssertionError("it was taken")
