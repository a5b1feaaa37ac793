"""The base model: a checkpoint from a folder or the hub, in memory, never unpickled.

Compute reads the checkpoint and its processor when the model is loaded, here and in `families`,
and no file after that.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.utils import logging

from visual_r1.engine.compute import low_rank
from visual_r1.engine.compute.cache import CacheBytes
from visual_r1.engine.compute.device_rules import DeviceRules, rules_of
from visual_r1.engine.compute.families import FAMILIES, TITLES, find_family
from visual_r1.engine.compute.families.family import Family, ImagePreparer
from visual_r1.engine.compute.packing import ATTENTION
from visual_r1.errors import ConfigError, ModelError
from visual_r1.models import model_path
from visual_r1.models.processor import Processor, load_processor


class TextOutput(Protocol):
    """What the text stack returns."""

    last_hidden_state: Tensor


@dataclass(frozen=True)
class BaseModel:
    """A loaded checkpoint and the facts about it that the engine needs."""

    name: str
    path: str
    family: Family
    network: nn.Module
    processor: Processor
    prepare_image: ImagePreparer
    device: torch.device
    dtype: torch.dtype
    context_length: int
    vocabulary_size: int
    is_mixture_of_experts: bool
    cache_bytes: CacheBytes
    """What the layers keep of a sequence."""
    rules: DeviceRules
    """By which it computes."""

    def text_stack(self, *, cache: object, **inputs: object) -> TextOutput:
        """Embeddings to final hidden states; `cache` is what the layers keep, None for nothing."""
        module = self.network.get_submodule(self.family.text_stack)
        return module(cache=cache, **inputs)

    @property
    def vision_tower(self) -> Callable[..., Any]:
        """Patches to features in the text stack's width."""
        return self.network.get_submodule(self.family.vision_tower)

    @property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """Token ids [...] to embeddings [..., width], float32 (see `residual`)."""
        embedding: Callable[[Tensor], Tensor] = cast(Any, self.network).get_input_embeddings()
        return lambda tokens: embedding(tokens).float()

    @property
    def unembed(self) -> Callable[[Tensor], Tensor]:
        """Hidden states [n, width] to logits [n, vocabulary], float32."""
        return partial(low_rank.logits, cast(Any, self.network).get_output_embeddings())


def load_base_model(name: str, device: str = "auto", rules: DeviceRules | None = None) -> BaseModel:
    """Load `name` (the shipped model's name, a folder or a hub id) for inference.

    It computes by the device's own rules unless others are given. Raises `ModelError` when there is
    no such model, when it is of no family that is served, when its weights are not safetensors, or
    not whole.
    """
    target = pick_device(device)
    if target.type == "cuda":
        # Read when the first product is computed: without it their sums have no order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    rules = rules_of(target) if rules is None else rules
    path = model_path(name)
    family, network, missing = _load_network(name, path, rules.dtype, target)
    network = network.eval().requires_grad_(False)
    _require_whole(name, path, network, missing)
    # Takes effect in training mode alone: activations are computed again in the backward pass.
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    cast(Any, network).activation_checkpointing_enable(settings)
    family.prepare_network(name, network)
    cast(Any, network.get_submodule(family.text_stack)).config._attn_implementation = ATTENTION
    config = cast(Any, network).config
    text = config.get_text_config()
    return BaseModel(
        name=name,
        path=path,
        family=family,
        network=network,
        processor=load_processor(name),
        prepare_image=family.image_preparer(path, config),
        device=target,
        dtype=rules.dtype,
        context_length=int(text.max_position_embeddings),
        vocabulary_size=int(text.vocab_size),
        is_mixture_of_experts=config.model_type in family.mixtures_of_experts,
        cache_bytes=family.cache_bytes(text, rules.dtype),
        rules=rules,
    )


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; also `cpu`, `cuda` and `cuda:N`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {device!r} is unknown; the engine runs on auto, cpu or cuda."
        ) from error
    if target.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not served; the engine runs on auto, cpu or cuda.")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch finds no CUDA; use cpu.")
    return target


def _load_network(
    name: str, path: str, dtype: torch.dtype, device: torch.device
) -> tuple[Family, nn.Module, Iterable[str]]:
    """Read the checkpoint, each tensor straight to the device, and name those that it lacks.

    Only safetensors are accepted, and no code of the checkpoint is run.
    """
    try:
        # Before transformers reads more of it: of some types it would ask to run their own code.
        config, _ = cast(Any, PreTrainedConfig).get_config_dict(path)
        family = find_family(name, config.get("model_type"))
        with warnings.catch_warnings():
            # transformers warns of its own deprecations while it loads; none is the user's to mend.
            warnings.simplefilter("ignore")
            logging.disable_progress_bar()
            network, found = cast(Any, AutoModelForImageTextToText).from_pretrained(
                path,
                output_loading_info=True,
                dtype=dtype,
                device_map={"": device},
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        place = f"the folder {path}" if Path(path).is_dir() else f"the hub id {path}"
        raise ModelError(
            f"could not load the model {name} from {place}: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}. "
            f"Name a {' or '.join(TITLES)} folder with safetensors weights, or a hub id that can "
            "be reached."
        ) from error
    return family, cast(nn.Module, network), found["missing_keys"]


def _require_whole(name: str, path: str, network: nn.Module, missing: Iterable[str]) -> None:
    """Raise `ModelError` where the weights are not those of a whole checkpoint.

    transformers draws a tensor at random that the files do not have, and makes numbers of any kind
    the kind that it computes in.
    """
    faults = [f"no tensor {one!r}" for one in sorted(missing)]
    try:
        faults += [
            f"whole numbers ({kind}) in {one!r}"
            for one, kind in _kinds(name).items()
            if not kind.startswith(("F", "BF"))
        ]
    except (SafetensorError, OSError) as error:
        faults.append(f"a file that cannot be read ({error})")
    faults += [
        f"numbers in {one!r} that are not finite"
        for one, values in network.named_parameters()
        if not is_finite(values)
    ]
    if faults:
        more = f", and {len(faults) - 1} faults more" if len(faults) > 1 else ""
        raise ModelError(
            f"The weights of the model {name} ({path}) are damaged or not all there: there "
            f"is {faults[0]}{more}. Copy or download the model again."
        )


def is_finite(values: Tensor) -> bool:
    """Whether no number of the tensor is infinite or NaN."""
    # A sum is finite only where all of it is, and takes a tenth of the time.
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())


def _kinds(name: str) -> dict[str, str]:
    """The kind of numbers of each tensor, as the model's files have it."""
    found: dict[str, str] = {}
    folder = _folder_of(name)
    for file in sorted(folder.glob("*.safetensors")) if folder else ():
        opened: Any = safe_open(file, framework="numpy")
        with opened as tensors:
            names: list[str] = list(tensors.keys())
            found |= {one: tensors.get_slice(one).get_dtype() for one in names}
    return found


def _folder_of(name: str) -> Path | None:
    """The folder of a model that is on this machine."""
    folder = Path(model_path(name))
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def family_and_shapes(name: str) -> tuple[Family, str, dict[str, torch.Size]] | None:
    """A model's family and type, and the shapes of its network's parameters by name.

    Read off its configuration: files may hold each expert by itself where the network has all of a
    layer in one parameter, and further heads that no network is made of. None where the model is
    not on this machine, or of no family here: the engine says so when it loads it.
    """
    folder = _folder_of(name)
    if folder is None:
        return None
    try:
        config = cast(Any, AutoConfig).from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    if config.model_type not in FAMILIES:
        return None
    with torch.device("meta"):  # no memory is taken
        network: nn.Module = cast(Any, AutoModelForImageTextToText).from_config(config)
    shapes = {name: values.shape for name, values in network.named_parameters()}
    return FAMILIES[config.model_type], str(config.model_type), shapes
