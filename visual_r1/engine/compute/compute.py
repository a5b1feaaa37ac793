"""The compute side of the engine: one base model, any number of adapters, no HTTP.

All methods but `read_ahead` are called from one worker thread. A method that takes a request of one
user raises `InvalidRequest` when that request is wrong and leaves everything as it was.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import load_base_model
from visual_r1.engine.compute.datums import check_data
from visual_r1.engine.compute.device_rules import DeviceRules
from visual_r1.engine.compute.families.lean import LeanQwen3
from visual_r1.engine.compute.families.products import Bound, LowRank
from visual_r1.engine.compute.graphs import GraphedStep
from visual_r1.engine.compute.learner import Learner
from visual_r1.engine.compute.lora import (
    Adapter,
    FrozenWeights,
    Slots,
    adapter_from,
    adapter_tensors,
    peft_folder,
)
from visual_r1.engine.compute.losses import find_loss
from visual_r1.engine.compute.memory import free_bytes
from visual_r1.engine.compute.optimizer import adam_step
from visual_r1.engine.compute.prompts import ImageReader, Layout, lay_out
from visual_r1.engine.compute.running import RunningBatch
from visual_r1.engine.compute.shared_prefix import SHARERS
from visual_r1.engine.compute.step import ModuleStep, Step
from visual_r1.engine.types import (
    AdamSettings,
    Datum,
    ForwardOutput,
    ImagePart,
    InvalidRequest,
    LoraSpec,
    Prompt,
    SampleOutput,
    SampleRequest,
)
from visual_r1.printing import open_logger

log = open_logger("visual_r1.engine")

DEFAULT_MAX_IMAGE_PIXELS = 4096 * 4096


class Compute:
    """One base model in memory, and what can be computed with it.

    On the CPU results are deterministic for a thread count, and what a request gives depends on
    nothing but the weights and the request: see `batching`.
    """

    model_name: str
    """As it was asked for: a hub id, a folder or the name of the shipped model."""
    tokenizer_id: str
    """Local folder or hub id from which a client can load the tokenizer."""
    architecture: str
    """The family of models, such as `qwen3_vl`."""
    context_length: int
    vocabulary_size: int
    device: torch.device
    dtype: torch.dtype
    threads: int

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        threads: int = 2,
        max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS,
        rules: DeviceRules | None = None,
    ) -> None:
        """Load the base model, and pin torch's threads and its deterministic algorithms.

        `rules` are others than the device's own.

        Raises `ModelError` when the model cannot be loaded, `ConfigError` for a wrong device.
        """
        torch.set_num_threads(threads)
        self._base = load_base_model(model, device, rules)
        if self._base.device.type == "cpu":
            torch.use_deterministic_algorithms(True)
        else:
            # It makes a plan for each shape that it meets, and sums without an order backward.
            torch.backends.cuda.enable_cudnn_sdp(False)  # pyright: ignore[reportUnknownMemberType]
            # Products whose parts are summed up in bfloat16 would set learner and sampler apart.
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        # Asked for along with determinism by default, and only a cost: nothing here reads memory
        # that it has not written.
        cast(Any, torch.utils).deterministic.fill_uninitialized_memory = False
        self._images = ImageReader(self._base.prepare_image, max_image_pixels)
        self._slots = Slots(self._base)
        self._lean: LeanQwen3 | GraphedStep | None
        self._lean = lean = self._base.family.lean_step(self._base.network)
        # Of who began last. Weights that nobody samples with any more are not held by it.
        self._prepared_of: weakref.ref[FrozenWeights] | None = None
        self._prepared: tuple[Bound, ...] = ()
        self._batches: weakref.WeakSet[RunningBatch] = weakref.WeakSet()
        if lean is not None and self._base.rules.independent:
            lean.compute_alone(self._base.rules.copied_bytes)
        if lean is not None and self._base.device.type == "cuda":
            if missing := lean.compute_on(self._base.device):
                log.warning(
                    f"sampling goes by slower kernels, since ours cannot be used here ({missing}): "
                    "they want the Triton that comes with torch, and a C compiler such as gcc"
                )
            self._lean = GraphedStep(lean) if lean.can_be_recorded else lean
        self._module_step = ModuleStep(self._base)
        self.model_name = model
        self.tokenizer_id = self._base.path
        self.architecture = self._base.family.name
        self.context_length = self._base.context_length
        self.vocabulary_size = self._base.vocabulary_size
        self.device = self._base.device
        self.dtype = self._base.dtype
        self.threads = threads

    def new_adapter(self, spec: LoraSpec) -> Adapter:
        """Return a fresh adapter: A drawn from the seed, B zero, so that it changes nothing yet."""
        slot = self._slots.of(spec)
        return Adapter.fresh(spec, slot.initial_weights(spec.seed, self.device))

    def layout(self, prompt: Prompt) -> Layout:
        """How the model reads a prompt, place by place; raises `InvalidRequest` where it cannot."""
        return lay_out(self._base, self._images, prompt)

    def read_ahead(self, prompt: Prompt) -> None:
        """Prepare the images of a prompt that will be computed. On any thread."""
        for part in prompt:
            if isinstance(part, ImagePart):
                self._images.read_ahead(part)

    def forward(
        self,
        adapter: Adapter,
        data: Sequence[Datum],
        loss_fn: str,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> ForwardOutput:
        """Log-probabilities and loss of `data`; with `backward` the gradients are accumulated.

        Metrics: `loss:sum`; `tokens:sum`, those with a weight or advantage other than 0; for policy
        losses `ratio:max`, the largest exp(logp − q) among them; for clipped ones
        `clipped_tokens:sum`, those whose ratio lies outside the thresholds.

        Raises `InvalidRequest`, and then no gradient has changed.
        """
        if adapter.broken is not None:
            adapter.require_sound()
        loss, settings = find_loss(loss_fn, config)
        checked = check_data(self._base, self._images, data, loss_fn, backward=backward)
        slot = self._slots.of(adapter.spec)
        self._slots.activate(slot)
        return Learner(self._base, slot, loss, settings).run(adapter, checked, backward=backward)

    def optim_step(self, adapter: Adapter, settings: AdamSettings) -> dict[str, float]:
        """One Adam step with the accumulated gradients, which are cleared; returns metrics.

        `grad_norm:mean` is the gradient's norm before clipping, `grad_scale:mean` what clipping
        multiplied it by. Raises `InvalidRequest` when no gradient waits or it is not finite, and
        when the step, or one before it, made the weights infinite.
        """
        if adapter.broken is not None:
            adapter.require_sound()
        return adam_step(adapter, settings)

    def drop_gradients(self, adapter: Adapter) -> None:
        """Forget the accumulated gradients, as after a call that failed in part."""
        adapter.gradients.zero_()
        adapter.pending = 0

    def sample(
        self, weights: FrozenWeights | None, requests: Sequence[SampleRequest]
    ) -> list[SampleOutput | InvalidRequest]:
        """Answer all requests with the same weights (None: the base model itself), in order.

        A wrong request gets its `InvalidRequest` in its place; the others are answered.
        """
        # Whoever opened other batches cannot advance them meanwhile: nothing is to be waited for.
        batch = self.open_batch(weights, waits=False)
        outputs: dict[int, SampleOutput | InvalidRequest] = {}
        places: dict[int, int] = {}
        for index, request in enumerate(requests):
            try:
                places[batch.admit(request)] = index
            except InvalidRequest as error:
                outputs[index] = error
        while not batch.idle:
            progress = batch.advance()
            outputs |= {places[one.ticket]: one.output for one in progress.answered}
        return [outputs[index] for index in range(len(requests))]

    def open_batch(
        self,
        weights: FrozenWeights | None,
        *,
        check_every: int | None = None,
        plannable: Callable[[], int] | None = None,
        waits: bool = True,
    ) -> RunningBatch:
        """A batch, empty yet, that samples with these weights (None: the base model itself).

        Any number of them may be open; each is advanced by itself. `check_every` is the number of
        tokens between two looks at what was sampled, by default the device's; `plannable` says how
        many bytes the batch may take, by default the device's share of what is free (see
        `DeviceRules`). Neither changes what is sampled. Where there is no memory for a request it
        `waits` as long as other batches hold some.
        """
        rules = self._base.rules
        slot = None if weights is None else self._slots.of(weights.spec)
        lean = self._lean
        prepared: tuple[Bound, ...] = ()

        def bind() -> Step:
            nonlocal prepared
            # Other adapters may have been computed since: what is bound is bound anew each time.
            self._slots.activate(slot)
            if weights is not None and slot is not None:
                slot.bind(weights.weights)
            if lean is None:
                return self._module_step
            # Only here, where a batch meets that memory runs out.
            prepared = prepared or self._prepare(lean, weights)
            lean.use(prepared)
            return lean

        batch = RunningBatch(
            self._base,
            self._images,
            bind,
            check_every=check_every or rules.check_every,
            plannable=plannable or (lambda: int(free_bytes(self.device) * rules.sampling_share)),
            sharers=1 if lean is None else SHARERS,
            others_hold=self._others_hold if waits else None,
        )
        self._batches.add(batch)
        return batch

    def _others_hold(self, batch: RunningBatch) -> bool:
        return any(one.holds_memory for one in self._batches if one is not batch)

    def _prepare(
        self, lean: LeanQwen3 | GraphedStep, weights: FrozenWeights | None
    ) -> tuple[Bound, ...]:
        """What a step computes with; kept for the next batch: a client's requests come and go, its
        weights stay."""
        held = self._prepared_of
        is_held = held is None if weights is None else held is not None and held() is weights
        if not (self._prepared and is_held):
            low: LowRank = {}
            if weights is not None:
                low = self._slots.of(weights.spec).low_rank(weights.weights)
            self._prepared = lean.prepared(low)
            self._prepared_of = None if weights is None else weakref.ref(weights)
        return self._prepared

    def freeze(self, adapter: Adapter) -> FrozenWeights:
        """Return a copy of the adapter's weights that later training does not change.

        Raises `InvalidRequest` where they are not finite.
        """
        adapter.require_sound()
        return adapter.frozen()

    def state_tensors(self, adapter: Adapter, *, optimizer: bool) -> dict[str, Tensor]:
        """CPU tensors that `restore` builds the same adapter from, bit for bit.

        Accumulated gradients are not part of it. Raises `InvalidRequest`, with what is to blame,
        where the weights are not finite.
        """
        adapter.require_sound()
        slot = self._slots.of(adapter.spec)
        return adapter_tensors(slot, adapter, optimizer=optimizer)

    def restore(self, spec: LoraSpec, tensors: Mapping[str, Tensor], *, optimizer: bool) -> Adapter:
        """Return the adapter of `tensors`; without `optimizer` with a fresh Adam state.

        Raises `InvalidRequest` when the tensors do not fit the spec and the base model.
        """
        slot = self._slots.of(spec)
        return adapter_from(slot, spec, tensors, self.device, optimizer=optimizer)

    def frozen_from(self, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> FrozenWeights:
        """Return sampler weights from what `state_tensors` gave (Adam's state is ignored)."""
        slot = self._slots.of(spec)
        slot.require_nothing_else(tensors)
        return FrozenWeights(spec, slot.flattened(tensors, self.device))

    def frozen_tensors(self, weights: FrozenWeights) -> dict[str, Tensor]:
        """CPU tensors of sampler weights, for `frozen_from` and `peft_adapter`."""
        return self._slots.of(weights.spec).named(weights.weights)

    def peft_adapter(
        self, spec: LoraSpec, tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return adapter_config.json and the tensors of adapter_model.safetensors.

        A folder of the two is loaded by `peft.PeftModel.from_pretrained(base, folder)` and gives
        the same logits.
        """
        return peft_folder(self._base, spec, tensors)


__all__ = ["Adapter", "Compute", "FrozenWeights"]
