"""What of a base model a LoRA can be put on: by its configuration alone, no weight is read."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from visual_r1.errors import ModelError
from visual_r1.models import hub_id, model_path

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix [outputs, inputs] of the base model, or the matrices of a layer's experts.

    `name` is that of the linear module, or of the parameter that holds `experts` matrices; of a
    plain one `experts` is 0. `is_transposed` says that the parameter holds [inputs, outputs] each.
    """

    name: str
    outputs: int
    inputs: int
    experts: int = 0
    is_transposed: bool = False

    @property
    def pattern(self) -> str:
        """Its name with a star for each number: the same matrix of all layers."""
        return _NUMBER.sub("*", self.name)


@dataclass(frozen=True)
class BaseIndex:
    """The matrices of a base model by name, and what else an export has to know of it."""

    name: str
    config: Any = field(repr=False)
    places: Mapping[str, Place] = field(repr=False)
    unembed: str
    """Name of the module from hidden states to logits."""
    is_tied: bool
    """Whether that has the embeddings' own matrix."""

    @property
    def hub_name(self) -> str:
        """The model as PEFT and the hub know it."""
        return hub_id(self.name)

    @property
    def model_type(self) -> str:
        """As in config.json."""
        return str(self.config.model_type)

    def network(self) -> nn.Module:
        """The model on the meta device: modules and shapes, and no numbers."""
        return _network(self.config)

    @cached_property
    def by_tail(self) -> Mapping[str, list[Place]]:
        """The places by what of their names is the same in every wrapping, see `tail`."""
        found: defaultdict[str, list[Place]] = defaultdict(list)
        for place in self.places.values():
            found[tail(place.name)].append(place)
        return found

    @cached_property
    def by_pattern(self) -> Mapping[str, list[Place]]:
        """The places of all layers together, see `Place.pattern`."""
        found: defaultdict[str, list[Place]] = defaultdict(list)
        for place in self.places.values():
            found[place.pattern].append(place)
        return found


def tail(name: str) -> str:
    """A name from the list of layers on: `layers.0.mlp.up_proj` of what wraps it how ever.

    Libraries differ in what stands before: `model.`, `model.language_model.`, `language_model.
    model.`. A name without a number is its last part.
    """
    parts = name.split(".")
    numbered = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[max(numbered - 1, 0) :])


def modules_of(network: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """All modules by name, typed."""
    return cast("Iterable[tuple[str, nn.Module]]", cast(Any, network).named_modules())


def load_base_index(name: str) -> BaseIndex:
    """The index of the model `name`: the shipped one, a folder or a hub id.

    Raises `ModelError` where its configuration is not to be had, or of no kind that transformers
    builds without code of its own.
    """
    path = model_path(name)
    try:
        config = cast(Any, AutoConfig).from_pretrained(path, trust_remote_code=False)
        network = _network(config)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"could not read what the base model {name} is built of: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')}. "
            "An export is held against it: name a folder that has its config.json, or a hub id "
            "that can be reached."
        ) from error
    places = {place.name: place for place in _places(network)}
    output = cast(Any, network).get_output_embeddings()
    unembed = next((name for name, module in modules_of(network) if module is output), "")
    embed = cast(Any, network).get_input_embeddings()
    is_tied = bool(unembed) and output.weight is embed.weight
    return BaseIndex(name, config, places, unembed, is_tied)


def auto_class(config: Any) -> Any:
    """The class of transformers that builds and loads the model of a configuration."""
    sees = type(config) in cast(Any, AutoModelForImageTextToText)._model_mapping
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def _network(config: Any) -> nn.Module:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers' own deprecations
        network = auto_class(config).from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
        network.tie_weights()
    return cast(nn.Module, network)


def _places(network: nn.Module) -> list[Place]:
    found: list[Place] = []
    for name, module in modules_of(network):
        if isinstance(module, nn.Linear):
            found.append(Place(name, module.out_features, module.in_features))
        elif not isinstance(module, _CONVOLUTIONS):
            own = cast(Any, module).named_parameters(recurse=False)
            for parameter, values in cast("Iterable[tuple[str, Tensor]]", own):
                if values.ndim == 3:
                    experts, rows, columns = tuple(values.shape)
                    is_transposed = bool(getattr(module, "is_transposed", False))
                    outputs, inputs = (columns, rows) if is_transposed else (rows, columns)
                    whole = f"{name}.{parameter}"
                    found.append(Place(whole, outputs, inputs, experts, is_transposed))
    return found
