"""The families of models that the engine can compute, one module each.

A module here that has a `FAMILY` is served: to add a family, add its module (and the format of its
prompts in `visual_r1.models.families`, if that is another).
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

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

TITLES = " or ".join(dict.fromkeys(family.title for family in FAMILIES.values()))
"""The families as a sentence names them."""


def find_family(name: str, model_type: str) -> Family:
    """The family of the model `name`. Raises `ModelError` when it is of another type."""
    if model_type not in FAMILIES:
        raise ModelError(
            f"model {name} is of type {model_type}; the engine serves {TITLES} checkpoints "
            f"({', '.join(FAMILIES)})."
        )
    return FAMILIES[model_type]
