"""An adapter in a folder, taken into the embedded engine's home to be sampled from.

What the engine serves is PEFT over the same base model, so an adapter is the same numbers under the
same names. It is held against the base model first as an export is: each tensor has its place,
nothing is left over, and PEFT applies all of it. Where its product is scaled otherwise than the
engine does (32 / rank), the second matrix takes the difference; an adapter that this engine trained
has the same scale, and its numbers stay as they are, bit for bit.

The engine puts LoRA on all attention, all MLPs, the output embedding, or some of the three, with
one rank: another adapter is refused. No Tinker server takes weights in, so that this is for the
embedded engine alone.
"""

import json
import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, cast

from visual_r1.backend.endpoint import choose_kind
from visual_r1.config import RunConfig
from visual_r1.errors import ConfigError
from visual_r1.exports.record import (
    ADAPTER_FILES,
    RECORD_NAME,
    Export,
    file_sha256,
    inspect_export,
)
from visual_r1.hashing import digest
from visual_r1.models import hub_id

_DIGITS = 32


def adapter_in(folder: Path, config: RunConfig) -> tuple[Path, str]:
    """The folder that holds the adapter's two files, and a digest of them and of its base model.

    `folder` is that, or what an export wrote around it. Raises `ConfigError` where there is no
    adapter, where its record says that it is damaged, where it is of another base model than that
    of `config`, and where that is asked of another server than the embedded engine.
    """
    made, place = _export_around(folder)
    if choose_kind(config, os.environ) != "embedded":
        way_out = (
            f"name the checkpoint it was exported from, --sampler-path {made.sampler_path}"
            if made and made.sampler_path.startswith("tinker://")
            else "name the checkpoint it was exported from with --sampler-path tinker://…"
        )
        raise ConfigError(
            f"The adapter in {folder} cannot be evaluated on this server: no Tinker server takes "
            f"weights in. Evaluate it on the embedded engine (--backend.server embedded), or "
            f"{way_out}."
        )
    base = _base_of(place)
    if hub_id(base) != hub_id(config.model.name):
        raise ConfigError(
            f"The adapter in {place} is of the base model {base}, and what is asked here is "
            f"{config.model.name}: give --model.name {base}, or the --run that it is of."
        )
    files = [file_sha256(place / name) for name in ADAPTER_FILES]
    return place, digest([hub_id(base), *files], _DIGITS)


def take_in(folder: Path, config: RunConfig) -> str:
    """Take the adapter in `folder` into the home of the embedded engine of `config`, where it is
    not there already; the `tinker://` path to sample it by.

    Raises as `adapter_in`; `Misfit` where the adapter does not fit its base model, `ConfigError`
    where the engine cannot put it where it belongs, `StorageError`.
    """
    place, name = adapter_in(folder, config)
    # Here and not above: torch, transformers and peft take seconds.
    from visual_r1.engine.store.brought import bring, brought_path, is_there

    home = config.backend.engine_home or config.state_dir / "engine"
    if not is_there(home, name):
        spec, tensors = _as_the_engine_has_it(place, config.model.name)
        bring(home, name, config.model.name, spec, tensors)
    return str(brought_path(name))


def _export_around(folder: Path) -> tuple[Export | None, Path]:
    """The export's record, where there is one, and where the adapter's files lie."""
    for around, place in (
        (folder, folder / "adapter"),
        (folder, folder),
        (folder.parent, folder),
    ):
        if not (place / ADAPTER_FILES[0]).is_file():
            continue
        if not (around / RECORD_NAME).is_file():
            continue
        made, wrong = inspect_export(around.parent, around.name)
        if wrong:
            raise ConfigError(f"{wrong} Export its checkpoint again.")
        if made is not None and (around / made.adapter).resolve() == place.resolve():
            return made, place
    nested = folder / "adapter"
    place = nested if (nested / ADAPTER_FILES[0]).is_file() else folder
    for name in ADAPTER_FILES:
        if not (place / name).is_file():
            raise ConfigError(
                f"There is no adapter in {folder}: {name} is missing; name the folder that PEFT "
                "loads, such as runs/NAME/export/adapter."
            )
    return None, place


def _base_of(place: Path) -> str:
    file = place / ADAPTER_FILES[0]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        base = content["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} does not say which base model it is of ({type(error).__name__}: {error}): "
            "export the adapter again."
        ) from error
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{file} names no base model: export the adapter again.")
    return base


def _as_the_engine_has_it(place: Path, base_model: str) -> tuple[Any, Mapping[str, Any]]:
    """The spec and the tensors of an adapter, named and scaled as the engine's own."""
    from visual_r1.engine.compute.families import FAMILIES, TITLES
    from visual_r1.engine.compute.lora import LORA_ALPHA, Targets
    from visual_r1.engine.types import LoraSpec
    from visual_r1.exports.adapter import peft_form, read_adapter, unapplied
    from visual_r1.exports.base import load_base_index
    from visual_r1.exports.names import PREFIX, Misfit

    index = load_base_index(base_model)
    family = FAMILIES.get(index.model_type)
    if family is None:
        raise ConfigError(
            f"The embedded engine does not serve models of the type {index.model_type}: it serves "
            f"{' and '.join(TITLES)}."
        )
    adapter = read_adapter(place, index)
    if wrong := unapplied(place, index):
        raise Misfit(f"The adapter in {place} is not one that PEFT applies as it stands: {wrong}")
    rank = int(adapter.config["r"])
    others = sorted({lora.rank for lora in adapter.loras.values()} - {rank})
    if others or adapter.config.get("alpha_pattern"):
        raise ConfigError(
            f"The adapter in {place} has ranks or scales of several kinds (rank {rank} and "
            f"{', '.join(map(str, others)) or 'others by name'}), and the embedded engine has one "
            "for all matrices: evaluate it where it was trained."
        )
    experts = index.model_type in family.mixtures_of_experts
    for attention, mlp, unembed in product((True, False), repeat=3):
        spec = LoraSpec(rank, None, mlp, attention, unembed)
        targets = Targets.of(spec, family.lora, experts=experts)
        ends = tuple(f".{one}" for one in (*targets.modules, *targets.parameters))
        if ends and {one for one in index.places if f".{one}".endswith(ends)} == set(adapter.loras):
            break
    else:
        raise ConfigError(
            f"The adapter in {place} is on {len(adapter.loras)} matrices that are not all of the "
            "attention, of the MLPs or the output embedding, and the embedded engine puts LoRA on "
            "all of them: evaluate it where it was trained."
        )
    scale = adapter.factor * rank / LORA_ALPHA
    tensors = {
        name.removeprefix(PREFIX): values * scale if ".lora_B." in name and scale != 1 else values
        for name, values in peft_form(adapter, index)[1].items()
    }
    return spec, cast("Mapping[str, Any]", tensors)
