"""The families of models that the engine can compute, one module each.

A module here that has a `FAMILY` is served: to add a family, add its module (and the format of its
prompts in `visual_r1.models.families`, if that is another).
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, cast

from transformers.models.auto import modeling_auto

from visual_r1.engine.compute.families.family import Family
from visual_r1.errors import ModelError


def _families() -> list[Family]:
    names = sorted(module.name for module in iter_modules(__path__, f"{__name__}."))
    found = [getattr(import_module(name), "FAMILY", None) for name in names]
    return [family for family in found if family is not None]


FAMILIES: Mapping[str, Family] = {
    model_type: family for family in _families() for model_type in family.model_types
}
"""By the checkpoint's `model_type`."""

TITLES = tuple(dict.fromkeys(family.title for family in FAMILIES.values()))
"""The families as a person calls them."""


def find_family(name: str, model_type: str | None) -> Family:
    """The family of the model `name`. Raises `ModelError` when it is of another type."""
    if model_type is None or model_type not in FAMILIES:
        raise ModelError(
            f"model {name} {_what_it_is(model_type)}; the engine serves {' and '.join(TITLES)} "
            f"checkpoints ({', '.join(FAMILIES)})."
        )
    return FAMILIES[model_type]


def _what_it_is(model_type: str | None) -> str:
    """As transformers knows the type: a vision-language model by its name, a text model as such."""
    registry = cast(Any, modeling_auto)
    seeing: Mapping[str, str] = registry.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if model_type is None:
        return "has no model_type in its config.json"
    if model_type in seeing:
        # Qwen2_5_VLForConditionalGeneration is called Qwen2.5-VL.
        title = re.sub(r"(?<=\d)_(?=\d)", ".", seeing[model_type].split("For")[0])
        return f"is of the family {title.replace('_', '-')} (type {model_type})"
    if model_type in registry.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"is of type {model_type}, which reads text and no images"
    return f"is of type {model_type}"
