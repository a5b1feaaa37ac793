"""Whether PEFT, or the merged model, says what the server said: in nats, and matrix by matrix.

The same tokens, images included, go through transformers' own forward pass. Two things are asked of
the differences d to the server's log-probabilities:

- **Size.** The base model without adapter differs as well: other kernels, another order of sums,
  fewer bits. The largest |d| with the adapter may be four times the largest without.
- **Scale.** A single matrix that is off by a percent moves each token by less than that, and all of
  them together in one direction: g, the derivative of the log-probabilities by the matrix's scale.
  So the scale's error is estimated as <d, g> / <g, g>, whose standard error is rms(d) / |g|. It may
  be half a percent at most, or four standard errors where that is more. A matrix for which that is
  more is called unresolved: what it does to these tokens is not far enough above the rounding.

<d, g> of all matrices comes from one backward pass, weighted with d; |g| from a few, weighted with
random signs (Hutchinson, 1990).
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from visual_r1.engine.compute.families import FAMILIES, TITLES
from visual_r1.engine.compute.families.family import ImagePreparer
from visual_r1.engine.types import TextPart
from visual_r1.errors import ConfigError, ModelError
from visual_r1.exports.base import BaseIndex
from visual_r1.exports.record import Certificate
from visual_r1.exports.reference import Scored
from visual_r1.models import model_path
from visual_r1.progress import Progress

MOST_OFF = 0.005
"""So much may a matrix's scale be off; half of the smallest error that is to be found."""
STANDARD_ERRORS = 4
TIMES_THE_BASE = 4
LEAST_TOLERANCE = 1e-4
"""In nats: what is written in float32 and summed in another order agrees no better in the tails."""
PROBES = 4

_VERSIONS = ("torch", "transformers", "peft", "safetensors", "tinker", "visual-r1")


@dataclass
class _Differences:
    """Of all prompts, one behind the other: float64 [tokens] each."""

    ours: list[np.ndarray] = field(default_factory=list[np.ndarray])
    base: list[np.ndarray] = field(default_factory=list[np.ndarray])
    effect: list[np.ndarray] = field(default_factory=list[np.ndarray])
    rounding: list[np.ndarray] = field(default_factory=list[np.ndarray])
    along: list[np.ndarray] = field(default_factory=list[np.ndarray])
    """<d, g> of each matrix, a row a prompt."""
    squared: list[np.ndarray] = field(default_factory=list[np.ndarray])
    """<g, g> of each matrix, a row a prompt."""


def certify(
    place: Path,
    adapter: Path,
    merged: Path | None,
    index: BaseIndex,
    scored: Sequence[Scored],
    progress: Progress,
) -> Certificate:
    """Compare the adapter in `adapter`, or the model in `merged` where there is one, with `scored`.

    Where a GPU is it is used, in bfloat16; a CPU computes in float32. Raises `ModelError` where the
    base model's weights are not to be had, `ConfigError` where images cannot be shown to it.
    """
    del place
    differences = _Differences()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    of: Literal["adapter", "merged"] = "adapter" if merged is None else "merged"
    progress.start(f"check the {of}", len(scored) * (1 if merged is None else 2), "prompts")
    from_merged = None
    if merged is not None:
        network = _loaded(str(merged), index, device, dtype)
        speaker = _Speaker(network, index, device)
        with torch.no_grad():
            from_merged = [speaker.logprobs(one).double().cpu().numpy() for one in scored]
        stored = _stored_dtype(merged)
        del network, speaker
        progress.advance(len(scored))
    network = _loaded(model_path(index.name), index, device, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tied lm_head
        model = PeftModel.from_pretrained(cast(Any, network), str(adapter))
    model.eval().requires_grad_(False)
    ups = _matrices(model)
    speaker = _Speaker(cast(nn.Module, model), index, device)
    generator = torch.Generator().manual_seed(0)
    for number, one in enumerate(scored):
        with cast(Any, model).disable_adapter(), torch.no_grad():
            bare = speaker.logprobs(one).double().cpu().numpy()
        logprobs = speaker.logprobs(one)
        here = logprobs.detach().double().cpu().numpy() if from_merged is None else from_merged[number]
        known = speaker.known(one)
        ours = here - one.logprobs[known]
        differences.ours.append(ours)
        differences.base.append(bare - one.base_logprobs[known])
        differences.effect.append(one.logprobs[known] - one.base_logprobs[known].astype(np.float64))
        along, squared = _along(logprobs, ups, ours, generator)
        differences.along.append(along)
        differences.squared.append(squared)
        progress.advance()
    if merged is not None and stored != torch.float32:
        with _rounded_anew(model, stored), cast(Any, model).disable_adapter(), torch.no_grad():
            for number, one in enumerate(scored):
                moved = speaker.logprobs(one).double().cpu().numpy()
                bare = differences.base[number] + one.base_logprobs[speaker.known(one)]
                differences.rounding.append(moved - bare)
    computed_in = f"{str(dtype).removeprefix('torch.')} on {device.type}"
    made = _judged(of, differences, list(ups), len(scored), computed_in)
    progress.finish(made.verdict)
    return made


def _judged(
    of: Literal["adapter", "merged"],
    found: _Differences,
    names: Sequence[str],
    prompts: int,
    computed_in: str,
) -> Certificate:
    ours, base, effect = (
        np.concatenate(of) for of in (found.ours, found.base, found.effect)
    )
    floor = float(np.abs(base).max())
    rounding = float(np.abs(np.concatenate(found.rounding)).max()) if found.rounding else 0.0
    tolerance = max(TIMES_THE_BASE * (floor + rounding), LEAST_TOLERANCE)
    largest = float(np.abs(ours).max())
    along = np.sum(found.along, axis=0)
    norms = np.sqrt(np.sum(found.squared, axis=0))
    noise = float(np.sqrt(np.mean(ours**2)))
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(norms > 0, along / norms**2, 0.0)
        limits = np.where(norms > 0, STANDARD_ERRORS * noise / norms, np.inf)
    resolved = limits <= MOST_OFF
    off = np.abs(errors) / np.maximum(limits, MOST_OFF)
    worst = int(np.argmax(off))
    size_agrees, scales_agree = largest <= tolerance, bool(off[worst] <= 1)
    because = (
        f"{TIMES_THE_BASE} times the largest difference of the base model itself ({floor:.2g}"
        + (f", and {rounding:.2g} that rounding the merged matrices may cost" if rounding else "")
        + f"), {LEAST_TOLERANCE:g} at least"
    )
    return Certificate(
        of=of,
        passed=size_agrees and scales_agree,
        verdict=_verdict(
            size_agrees, largest, tolerance, off[worst], float(errors[worst]), names[worst], effect,
            int(resolved.sum()), len(names),
        ),
        prompts=prompts,
        tokens=len(ours),
        largest=largest,
        mean=float(np.abs(ours).mean()),
        floor=floor,
        effect=float(np.sqrt(np.mean(effect**2))),
        tolerance=tolerance,
        because=because,
        scale_error=float(errors[worst]),
        worst=names[worst],
        matrices=len(names),
        resolved=int(resolved.sum()),
        unresolved=tuple(name for name, seen in zip(names, resolved, strict=True) if not seen),
        computed_in=computed_in,
        versions={name: version(name) for name in _VERSIONS},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _verdict(
    size_agrees: bool,
    largest: float,
    tolerance: float,
    off: float,
    error: float,
    worst: str,
    effect: np.ndarray,
    resolved: int,
    matrices: int,
) -> str:
    if not size_agrees:
        return (
            f"it does not hold: a log-probability differs from the server's by {largest:.3g} nats, "
            f"and {tolerance:.2g} are allowed"
        )
    if off > 1:
        return (
            f"it does not hold: what is done to {worst} is {100 * abs(error):.2g} % too "
            f"{'strong' if error > 0 else 'weak'}"
        )
    if not effect.any():
        return "it holds, and says little: the adapter changes nothing"
    return (
        f"it holds: the largest difference is {largest:.2g} nats of {tolerance:.2g} allowed, and an "
        f"error of 1 % in one of {resolved} of {matrices} matrices would have shown"
    )


def _matrices(model: Any) -> dict[str, Tensor]:
    """The second matrix of each LoRA by the name of its module; they alone take a gradient."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.requires_grad_(True)
            found[name.partition(".lora_B.")[0].removeprefix("base_model.model.")] = parameter
    return found


def _along(
    logprobs: Tensor, ups: Mapping[str, Tensor], d: np.ndarray, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Of each matrix <d, g> and an estimate of <g, g>, with g as the module has it: float64 [n].

    The derivative by a matrix's scale is <gradient, matrix>.
    """
    weights = [torch.as_tensor(d)]
    signs = torch.randint(0, 2, (PROBES, len(d)), generator=generator) * 2 - 1
    rows: list[np.ndarray] = []
    for weight in (*weights, *signs):
        total = (logprobs * weight.to(logprobs.device, logprobs.dtype)).sum()
        gradients = torch.autograd.grad(total, list(ups.values()), retain_graph=True)
        each = [
            float((gradient.double() * up.detach().double()).sum())
            for gradient, up in zip(gradients, ups.values(), strict=True)
        ]
        rows.append(np.array(each))
    return rows[0], np.mean(np.square(rows[1:]), axis=0)


class _Speaker:
    """A model's log-probabilities of the text tokens of prompts."""

    def __init__(self, network: nn.Module, index: BaseIndex, device: torch.device) -> None:
        self._network, self._index, self._device = network, index, device
        self._prepare: ImagePreparer | None = None

    def known(self, one: Scored) -> np.ndarray:
        """Which positions are compared, bool [T]: text of which the server said something."""
        is_text = np.concatenate(
            [
                np.ones(len(part.tokens), bool)
                if isinstance(part, TextPart)
                else np.zeros(self._image(part.data).tokens, bool)
                for part in one.prompt
            ]
        )
        return is_text & np.isfinite(one.logprobs) & np.isfinite(one.base_logprobs)

    def logprobs(self, one: Scored) -> Tensor:
        """Of the known positions, float32."""
        tokens: list[int] = []
        patches: list[Tensor] = []
        grids: list[list[int]] = []
        for part in one.prompt:
            if isinstance(part, TextPart):
                tokens += part.tokens
                continue
            image = self._image(part.data)
            tokens += [int(self._index.config.image_token_id)] * image.tokens
            patches.append(image.patches)
            grids.append([1, *image.grid])
        ids = torch.tensor([tokens], device=self._device)
        given: dict[str, Any] = {"input_ids": ids}
        if patches:
            given["pixel_values"] = torch.cat(patches).to(self._device)
            given["image_grid_thw"] = torch.tensor(grids, device=self._device)
            # By the parts, never by ids: a sampled image token is an ordinary one.
            is_image = [
                int(not isinstance(part, TextPart))
                for part in one.prompt
                for _ in range(
                    len(part.tokens) if isinstance(part, TextPart) else self._image(part.data).tokens
                )
            ]
            given["mm_token_type_ids"] = torch.tensor([is_image], device=self._device)
        logits = cast(Any, self._network)(**given).logits[0]
        known = torch.as_tensor(self.known(one)).nonzero()[:, 0].to(self._device)
        picked = torch.log_softmax(logits[known - 1].float(), -1)
        return picked.gather(-1, ids[0, known][:, None])[:, 0]

    def _image(self, data: bytes) -> Any:
        if self._prepare is None:
            family = FAMILIES.get(self._index.model_type)
            if family is None:
                raise ConfigError(
                    f"--check cannot show images to a model of the type {self._index.model_type}: "
                    f"it can to {TITLES}. Export without --check."
                )
            self._prepare = family.image_preparer(model_path(self._index.name), self._index.config)
        return self._prepare(b"", Image.open(io.BytesIO(data)).convert("RGB"))


def _loaded(path: str, index: BaseIndex, device: torch.device, dtype: torch.dtype) -> nn.Module:
    sees = type(index.config) in cast(Any, AutoModelForImageTextToText)._model_mapping
    kind = cast(Any, AutoModelForImageTextToText if sees else AutoModelForCausalLM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = kind.from_pretrained(
                path, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"--check loads {path}, which cannot be done: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}. Export without --check, and check "
            "where its weights are."
        ) from error
    return cast(nn.Module, network.to(device).eval().requires_grad_(False))


def _stored_dtype(merged: Path) -> torch.dtype:
    """The coarsest type of number in the files of a model."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in merged.glob("*.safetensors"):
        opened: Any = safe_open(file, framework="numpy")
        with opened as tensors:
            names |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}
    if "BF16" in names:
        return torch.bfloat16
    return torch.float16 if "F16" in names else torch.float32


@contextmanager
def _rounded_anew(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """For the block, each adapted matrix of the base is off by up to half a unit in the last place
    of `dtype`, at random: what rounding a merged one costs."""
    layers: list[Callable[[], Tensor]] = [
        (lambda module=module: module.get_base_layer().weight)
        for module in model.modules()
        if hasattr(module, "lora_B") and hasattr(module.get_base_layer(), "weight")
    ]
    generator = torch.Generator().manual_seed(1)
    kept = [layer().detach().clone() for layer in layers]
    for layer, weight in zip(layers, kept, strict=True):
        _, exponent = torch.frexp(weight)
        unit = torch.ldexp(torch.full_like(weight, torch.finfo(dtype).eps), exponent - 1)
        noise = torch.rand(weight.shape, generator=generator).to(weight.device) - 0.5
        layer().data = weight + noise.to(weight.dtype) * unit
    try:
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer().data = weight
    assert math.isfinite(float(kept[0].sum())) if kept else True
