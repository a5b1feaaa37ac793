"""What has been computed goes at once: no tensor waits for the garbage collector.

The collector counts objects. One that holds a batch's caches, on a card perhaps, might lie for long
before there are enough of them.
"""

import gc
from collections.abc import Callable

import torch
from engine_material import FAMILIES, picture_prompt, png, request, rollout_datum
from PIL import Image

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.types import ImagePart, InvalidRequest, LoraSpec, SampledSequence, TextPart

BROKEN = png(0)[:-40]


def left_in_cycles(work: Callable[[], object]) -> list[str]:
    """The kinds of tensors and pictures that `work` leaves behind in cycles."""
    gc.collect()
    gc.disable()
    try:
        work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [
            type(one).__name__ for one in gc.garbage if isinstance(one, torch.Tensor | Image.Image)
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_what_is_left_in_a_cycle_is_seen() -> None:
    def leave_one() -> None:
        cycle: list[object] = [torch.zeros(1)]
        cycle.append(cycle)

    assert left_in_cycles(leave_one) == ["Tensor"]


@FAMILIES
def test_a_batch_and_a_training_call_leave_no_tensor_in_a_cycle(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    adapter = trained(LoraSpec(rank=4, seed=1))
    weights = compute.freeze(adapter)
    requests = [request(picture_prompt(seed), samples=3) for seed in range(2)]

    def sample_and_train() -> None:
        outputs = compute.sample(None, requests) + compute.sample(weights, requests)
        answers = [one for output in outputs for one in output.sequences]  # type: ignore[union-attr]
        assert all(isinstance(one, SampledSequence) for one in answers)
        data = [rollout_datum(requests[0].prompt, one, 1.0) for one in answers[:3]]
        compute.forward(adapter, data, "importance_sampling", {}, backward=True)

    assert left_in_cycles(sample_and_train) == []
    assert left_in_cycles(sample_and_train) == []  # with what the first call has made ready


def test_an_image_that_cannot_be_used_leaves_nothing(compute: Compute) -> None:
    batch = compute.open_batch(None)
    refused: list[str] = []

    def show() -> None:
        try:
            batch.admit(request((TextPart((5,)), ImagePart(BROKEN))))
        except InvalidRequest as error:
            refused.append(str(error))

    assert left_in_cycles(show) == []
    assert ["image file is truncated" in said for said in refused] == [True]
