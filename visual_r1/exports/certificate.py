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
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging

from visual_r1.engine.compute.families import FAMILIES, TITLES
from visual_r1.engine.compute.families.family import ImagePreparer
from visual_r1.engine.types import TextPart
from visual_r1.errors import ConfigError, DataError, ModelError
from visual_r1.exports.base import BaseIndex, auto_class
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    questions = list(_questions(scored, index, device))
    of: Literal["adapter", "merged"] = "adapter" if merged is None else "merged"
    progress.start(f"check {of}", len(questions), "prompts")
    of_merged: list[np.ndarray] = []
    if merged is not None:
        network = _loaded(str(merged), index, device, dtype)
        of_merged = [_said(network, asked) for asked in questions]
        del network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tied lm_head
        network = _loaded(model_path(index.name), index, device, dtype)
        model = cast(nn.Module, cast(Any, PeftModel).from_pretrained(network, str(adapter)))
    model.eval().requires_grad_(False)
    found, ups = _Differences(), _matrices(model)
    generator = torch.Generator().manual_seed(0)
    for number, asked in enumerate(questions):
        with cast(Any, model).disable_adapter():
            found.base.append(_said(model, asked) - asked.base_logprobs)
        logprobs = _logprobs(model, asked)
        here = of_merged[number] if of_merged else logprobs.detach().double().cpu().numpy()
        found.ours.append(here - asked.logprobs)
        found.effect.append(asked.logprobs - asked.base_logprobs)
        along, squared = _along(logprobs, ups, found.ours[-1], generator)
        found.along.append(along)
        found.squared.append(squared)
        progress.advance()
    if merged is not None and (stored := _stored_dtype(merged)) != torch.float32:
        with _rounded_anew(model, stored), cast(Any, model).disable_adapter():
            for asked, base in zip(questions, found.base, strict=True):
                found.rounding.append(_said(model, asked) - base - asked.base_logprobs)
    computed_in = f"{str(dtype).removeprefix('torch.')} on {device.type}"
    made = _judged(of, found, list(ups), len(questions), computed_in)
    progress.finish(made.verdict)
    return made


def _judged(
    of: Literal["adapter", "merged"],
    found: _Differences,
    names: Sequence[str],
    prompts: int,
    computed_in: str,
) -> Certificate:
    ours, base, effect = (np.concatenate(of) for of in (found.ours, found.base, found.effect))
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
    # Matrices act alike in part, so that of one is seen in others: the likeliest is the one along
    # which most of the differences lie.
    worst = int(np.argmax(np.abs(errors) * norms))
    because = (
        f"{TIMES_THE_BASE} times the largest difference of the base model itself ({floor:.2g}"
        + (f", and {rounding:.2g} that rounding the merged matrices may cost" if rounding else "")
        + f"), {LEAST_TOLERANCE:g} at least"
    )
    made = Certificate(
        of=of,
        passed=largest <= tolerance and bool(off.max() <= 1),
        verdict="",
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
    )
    return replace(made, verdict=_verdict(made))


def _verdict(one: Certificate) -> str:
    if one.largest > one.tolerance:
        return (
            f"it does not hold: a log-probability differs from the server's by {one.largest:.3g} "
            f"nats, and {one.tolerance:.2g} are allowed"
        )
    if not one.passed:
        return (
            f"it does not hold: what is done to {one.worst} is {100 * abs(one.scale_error):.2g} % "
            f"too {'strong' if one.scale_error > 0 else 'weak'}"
        )
    if not one.effect:
        return "it holds, and says little: the adapter changes nothing"
    return (
        f"it holds: the largest difference is {one.largest:.2g} nats of {one.tolerance:.2g} "
        f"allowed, and an error of 1 % in one of {one.resolved} of {one.matrices} matrices would "
        "have shown"
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


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt as transformers is given it, and which of its positions are compared."""

    given: Mapping[str, Tensor]
    known: np.ndarray
    """int64 [n]: where there is text of which the server said something."""
    logprobs: np.ndarray
    base_logprobs: np.ndarray
    """The server's, float64 [n] each."""


def _questions(
    scored: Sequence[Scored], index: BaseIndex, device: torch.device
) -> Iterator[_Question]:
    prepare: ImagePreparer | None = None
    for one in scored:
        tokens: list[int] = []
        is_image: list[int] = []
        patches: list[Tensor] = []
        grids: list[list[int]] = []
        for part in one.prompt:
            if isinstance(part, TextPart):
                tokens += part.tokens
                is_image += [0] * len(part.tokens)
                continue
            prepare = prepare or _image_preparer(index)
            image = prepare(b"", Image.open(io.BytesIO(part.data)).convert("RGB"))
            tokens += [int(index.config.image_token_id)] * image.tokens
            is_image += [1] * image.tokens
            patches.append(image.patches)
            grids.append([1, *image.grid])
        given = {"input_ids": torch.tensor([tokens], device=device)}
        if patches:
            given["pixel_values"] = torch.cat(patches).to(device)
            given["image_grid_thw"] = torch.tensor(grids, device=device)
            # By the parts, never by ids: a sampled image token is an ordinary one.
            given["mm_token_type_ids"] = torch.tensor([is_image], device=device)
        if len(one.logprobs) != len(tokens):
            raise DataError(
                f"the server counts {len(one.logprobs)} tokens in a prompt of the check, and "
                f"transformers {len(tokens)}: it shows images in another size."
            )
        said = np.isfinite(one.logprobs) & np.isfinite(one.base_logprobs)
        known = np.flatnonzero(said & (np.array(is_image) == 0) & (np.arange(len(tokens)) > 0))
        of_server = (
            values[known].astype(np.float64) for values in (one.logprobs, one.base_logprobs)
        )
        yield _Question(given, known, *of_server)


def _image_preparer(index: BaseIndex) -> ImagePreparer:
    family = FAMILIES.get(index.model_type)
    if family is None:
        raise ConfigError(
            f"--check cannot show images to a model of the type {index.model_type}: it can to "
            f"{' and '.join(TITLES)}. Export without --check."
        )
    return family.image_preparer(model_path(index.name), index.config)


def _logprobs(network: nn.Module, asked: _Question) -> Tensor:
    """Of the positions that are compared, float32 [n]."""
    logits = cast(Any, network)(**asked.given).logits[0]
    known = torch.as_tensor(asked.known, device=logits.device)
    picked = torch.log_softmax(logits[known - 1].float(), -1)
    return picked.gather(-1, asked.given["input_ids"][0, known][:, None])[:, 0]


@torch.no_grad()
def _said(network: nn.Module, asked: _Question) -> np.ndarray:
    return _logprobs(network, asked).double().cpu().numpy()


def _loaded(path: str, index: BaseIndex, device: torch.device, dtype: torch.dtype) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable_progress_bar()
            network = auto_class(index.config).from_pretrained(
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
    names: set[str] = set()
    for file in merged.glob("*.safetensors"):
        opened: Any = safe_open(file, framework="numpy")
        with opened as tensors:
            names |= {tensors.get_slice(name).get_dtype() for name in list(tensors.keys())}
    if "BF16" in names:
        return torch.bfloat16
    return torch.float16 if "F16" in names else torch.float32


@contextmanager
def _rounded_anew(model: nn.Module, dtype: torch.dtype) -> Generator[None]:
    """For the block, each adapted matrix of the base is off by up to half a unit in the last place
    of `dtype`, at random: what rounding a merged one costs."""
    weights: list[Any] = [
        module.get_param() if hasattr(module, "get_param") else module.get_base_layer().weight
        for module in cast("Iterator[Any]", model.modules())
        if hasattr(module, "lora_B")
    ]
    generator = torch.Generator().manual_seed(1)
    kept: list[Tensor] = [weight.detach().clone() for weight in weights]
    for weight, was in zip(weights, kept, strict=True):
        _, exponent = torch.frexp(was.float())
        unit = torch.ldexp(torch.tensor(torch.finfo(dtype).eps), exponent.cpu() - 1)
        noise = (torch.rand(was.shape, generator=generator) - 0.5) * unit
        weight.data = was + noise.to(was)
    try:
        yield
    finally:
        for weight, was in zip(weights, kept, strict=True):
            weight.data = was
