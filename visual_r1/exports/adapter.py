"""An adapter's folder, made so that PEFT applies all of it over the base model, or refused."""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from visual_r1.errors import BackendError
from visual_r1.exports.base import BaseIndex, modules_of
from visual_r1.exports.names import PREFIX, Lora, Misfit, flat, loras_in, placed
from visual_r1.exports.record import ADAPTER_FILES
from visual_r1.storage import replaced_whole, write_text

CONFIG, WEIGHTS = ADAPTER_FILES

_safetensors: Any = safetensors_torch  # typed in part


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRAs of a folder by the place of the base model, and what they are multiplied by."""

    config: Mapping[str, Any]
    loras: Mapping[str, Lora]

    @property
    def factor(self) -> float:
        """What the product of two matrices is multiplied by, where they have the common rank."""
        alpha, rank = float(self.config["lora_alpha"]), int(self.config["r"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of an adapter: how many tensors lie on how many matrices, and in a sentence what
    was changed for PEFT's sake; "" where nothing was."""

    tensors: int
    matrices: int
    changed: str


def fit(folder: Path, index: BaseIndex) -> Fitted:
    """Let PEFT apply all of the adapter in `folder` over the base model.

    Where it does already the files stay as they are; else both are written anew, with the names
    and forms that it expects. Raises `Misfit`, which is a `BackendError`, where a tensor has no
    place or a place no tensor, and where PEFT leaves out any of it all the same.
    """
    adapter = read_adapter(folder, index)
    wrong = unapplied(folder, index)
    if not wrong:
        return Fitted(2 * len(adapter.loras), len(adapter.loras), "")
    if adapter.config.get("rank_pattern") or adapter.config.get("alpha_pattern"):
        raise Misfit(f"The adapter has ranks and alphas by names that PEFT does not know: {wrong}")
    sent: dict[str, Tensor] = _safetensors.load_file(folder / WEIGHTS)
    config, tensors = peft_form(adapter, index)
    with replaced_whole(folder / WEIGHTS) as temporary:
        _safetensors.save_file(tensors, temporary, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    if still := unapplied(folder, index):
        raise Misfit(f"The adapter cannot be written so that PEFT applies it: {still}")
    renamed = len(sent.keys() - tensors.keys())
    return Fitted(
        len(tensors),
        len(adapter.loras),
        f"Of the adapter {renamed} of {len(sent)} tensors had the server's own names or forms, "
        f"and are written as the {len(tensors)} that PEFT knows; as they came, {wrong}",
    )


def read_adapter(folder: Path, index: BaseIndex) -> Adapter:
    """The LoRAs of an adapter's folder, each at its place.

    Raises `Misfit` where they are not of this base model or not whole, `BackendError` where the
    files are damaged.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors: dict[str, Tensor] = _safetensors.load_file(folder / WEIGHTS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BackendError(f"The adapter in {folder} is damaged: {error}.") from error
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise BackendError(
                f"{name} of the adapter in {folder} holds numbers that are not finite."
            )
    parameters: list[str] = config.get("target_parameters") or []
    loras = loras_in(tensors, index, parameters)
    if not loras:
        raise Misfit(
            f"The adapter that the server sent ({len(tensors)} tensors) holds no LoRA: PEFT would "
            "change nothing."
        )
    found = placed(loras, index)
    _require_named(config, [*loras, *found])
    if rank <= 0 or alpha <= 0:
        raise BackendError(f"The adapter in {folder} has rank {rank} and alpha {alpha:g}.")
    return Adapter(config, found)


def _require_named(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Each module that the adapter's configuration says is trained has a tensor."""
    said: list[str] = list(config.get("target_parameters") or [])
    if isinstance(modules := config.get("target_modules"), list):
        said += cast("list[str]", modules)
    dotted = [f".{name}" for name in names]
    for one in said:
        if not any(name.endswith(f".{one}") for name in dotted):
            raise Misfit(
                f"The adapter's configuration names {one} as trained, and there is no tensor of "
                "it: PEFT would apply it in part."
            )


def unapplied(folder: Path, index: BaseIndex) -> str:
    """What PEFT leaves out or misses when it loads the folder over the base model; "" for nothing.

    It is asked: the adapter is loaded over the model on the meta device.
    """
    network = cast(Any, index.network())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = cast(Any, PeftModel).from_pretrained(
                network, str(folder), low_cpu_mem_usage=True, torch_device="cpu"
            )
            wanted: dict[str, Tensor] = cast(Any, peft).get_peft_model_state_dict(
                model, save_embedding_layers=False
            )
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        return f"PEFT refuses it ({(str(error).strip().splitlines() or ['?'])[0].rstrip('.')})."
    given: dict[str, Tensor] = _safetensors.load_file(folder / WEIGHTS)
    missing, left = (sorted(a.keys() - b.keys()) for a, b in ((wanted, given), (given, wanted)))
    if missing:
        return f"PEFT misses {len(missing)} tensors of it, the first {missing[0]}."
    if left:
        return f"PEFT leaves out {len(left)} of {len(given)} tensors, the first {left[0]}."
    if model.peft_config["default"].base_model_name_or_path != index.hub_name:
        return f"it does not name {index.hub_name} as its base model."
    return ""


def peft_form(adapter: Adapter, index: BaseIndex) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of adapter_model.safetensors, as PEFT expects them."""
    network = index.network()
    config = _peft_config(adapter, index, {name for name, _ in modules_of(network)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lm_head is tied: the LoRA sits on the output side
        inject_adapter_in_model(config, cast(Any, network), low_cpu_mem_usage=True)
    modules = {place: name for place, name, _ in _adapted(network)}
    if modules.keys() != adapter.loras.keys():
        other = sorted(modules.keys() ^ adapter.loras.keys())[0]
        raise Misfit(f"PEFT would adapt other matrices than the adapter has, the first {other}.")
    tensors: dict[str, Tensor] = {}
    for name, lora in sorted(adapter.loras.items()):
        lora = flat(lora)
        for side, values in (("lora_A", lora.down), ("lora_B", lora.up)):
            tensors[f"{PREFIX}{modules[name]}.{side}.weight"] = values.float().contiguous().clone()
    written = {
        key: sorted(cast("set[str]", value)) if isinstance(value, set) else value
        for key, value in cast("dict[str, Any]", config.to_dict()).items()
    }
    return written, tensors


def scaled_loras(folder: Path, index: BaseIndex) -> dict[str, Lora]:
    """The LoRAs of a folder that PEFT applies, each with its factor in it: what is added is
    `up` times `down`."""
    loras = read_adapter(folder, index).loras
    network = index.network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config: Any = cast(Any, LoraConfig).from_pretrained(str(folder))
        inject_adapter_in_model(config, cast(Any, network), low_cpu_mem_usage=True)
    factors = {
        place: float(cast(Any, layer).scaling["default"]) for place, _, layer in _adapted(network)
    }
    return {name: Lora(lora.down, lora.up * factors[name]) for name, lora in loras.items()}


def _adapted(network: nn.Module) -> Iterable[tuple[str, str, LoraLayer]]:
    """The place of each matrix that PEFT adapts, and name and module of what it put there."""
    for name, module in modules_of(network):
        if isinstance(module, ParamWrapper):
            yield f"{name.replace('.base_layer', '')}.{module.parameter_name}", name, module
        elif isinstance(module, LoraLayer):
            yield name, name, module


def _peft_config(adapter: Adapter, index: BaseIndex, modules: set[str]) -> LoraConfig:
    rank = int(adapter.config["r"])
    alpha = adapter.factor * rank
    names = {name: index.places[name] for name in adapter.loras}
    plain = {name for name, place in names.items() if not place.experts}
    ranks: dict[str, int] = {}
    for name, lora in adapter.loras.items():
        if lora.rank != rank:
            others = {one for one, of in adapter.loras.items() if of.rank != lora.rank}
            ranks[_ending(name, others).replace(".", r"\.")] = lora.rank
    return LoraConfig(
        base_model_name_or_path=index.hub_name,
        r=rank,
        lora_alpha=cast(int, int(alpha) if alpha == int(alpha) else alpha),
        target_modules=sorted({_ending(name, modules - plain) for name in plain}),
        target_parameters=sorted({_ending(name, set(), 2) for name in names.keys() - plain})
        or None,
        rank_pattern=ranks,
        alpha_pattern=cast(Any, {one: alpha * of / rank for one, of in ranks.items()}),
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
        task_type="CAUSAL_LM",
    )


def _ending(name: str, others: set[str], least: int = 1) -> str:
    """The shortest end of a name, without a layer's number, that none of the others has."""
    parts = name.split(".")
    for count in range(least, len(parts)):
        if parts[-count].isdigit():
            break
        end = ".".join(parts[-count:])
        if not any(f".{other}".endswith(f".{end}") for other in others):
            return end
    return name
