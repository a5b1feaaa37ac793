"""Which tensor of an adapter belongs where in the base model: by rules, and nothing is left over.

A server names what it trains as it holds it, PEFT as transformers does. The rules are those of what
the hosted service is known to send (tinker-cookbook, `weights/`):

    any wrapping         `model.layers.0.…` is `model.language_model.layers.0.…`, see `base.tail`
    unembed_tokens       is the module from hidden states to logits
    w1, w3, w2           are gate_proj, up_proj, down_proj
    q, k, v / gate, up   where the base has them as one matrix, one below the other; and the reverse
    experts.w1 [E, r, in], experts.7.gate_proj [r, in]
                         where the base has the experts of a layer in one parameter; and the reverse

A product of thin matrices is exact under all of them: parts of one matrix become a product of the
sum of their ranks, whose second factor is block-diagonal.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from visual_r1.errors import BackendError
from visual_r1.exports.base import BaseIndex, Place, tail

PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<name>.+)\.lora_(?P<side>[AB])(?:\.default)?(?:\.weight)?"
)
_NESTED = ".base_layer"

_UNEMBED = ("unembed_tokens", "lm_head")
_SPELLINGS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
# The parts of a matrix in the order of its rows.
_FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
_EXPERTS = ".experts."
_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<leaf>.+)")


@dataclass(frozen=True, slots=True)
class Lora:
    """Two thin matrices: `down` [r, inputs] and `up` [outputs, r], or [experts, …] of each."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """How many numbers stand between the two."""
        return int(self.up.shape[-1])

    @property
    def experts(self) -> int:
        """How many matrices; 0 of a plain one."""
        return int(self.down.shape[0]) if self.down.ndim == 3 else 0


class Misfit(BackendError):
    """An adapter's tensors are not those of the base model."""


def loras_in(
    tensors: Mapping[str, Tensor], index: BaseIndex, target_parameters: Sequence[str] = ()
) -> dict[str, Lora]:
    """The pairs of thin matrices by the name that the server gives what they are put on.

    `target_parameters` are those of the adapter's configuration, by which PEFT's own names of
    experts are read. Raises `Misfit` for a key that is no part of a LoRA, or whose other half is
    missing.
    """
    sides: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, values in tensors.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise Misfit(
                f"The adapter has a tensor {key}, which is no matrix of a LoRA (…lora_A, …lora_B): "
                "PEFT would leave it out, so it is not handed out."
            )
        sides[found["name"]][found["side"]] = values
    loras: dict[str, Lora] = {}
    for name, pair in sides.items():
        if len(pair) < 2:
            missing = "lora_B" if "A" in pair else "lora_A"
            raise Misfit(f"The adapter has no {missing} for {name}, and so not all of that LoRA.")
        if (
            pair["A"].numel() or pair["B"].numel()
        ):  # else it stands for what the model does not have
            loras[name] = _as_matrices(name, pair["A"], pair["B"])
    return _unnested(loras, index, target_parameters)


def _as_matrices(name: str, down: Tensor, up: Tensor) -> Lora:
    """Both with the same number of experts: one that all share is repeated."""
    if down.ndim == up.ndim == 3 and 1 in (len(down), len(up)):
        experts = max(len(down), len(up))
        down, up = down.expand(experts, -1, -1), up.expand(experts, -1, -1)
    same_kind = down.ndim == up.ndim and down.ndim in (2, 3) and down.shape[:-2] == up.shape[:-2]
    if not same_kind or down.shape[-2] != up.shape[-1]:
        raise Misfit(
            f"The two matrices of {name} are {list(down.shape)} and {list(up.shape)}, which have "
            "no product."
        )
    return Lora(down, up)


def _unnested(
    loras: Mapping[str, Lora], index: BaseIndex, target_parameters: Sequence[str]
) -> dict[str, Lora]:
    """PEFT wraps a module once for each of its parameters in turn; the first is innermost."""
    targets = tuple(f".{one}" for one in target_parameters)
    inside: defaultdict[str, list[str]] = defaultdict(list)
    for place in index.places.values():
        if place.experts and f".{place.name}".endswith(targets or ("\0",)):
            module, _, leaf = place.name.rpartition(".")
            if leaf not in inside[tail(module)]:
                inside[tail(module)].append(leaf)
    found: dict[str, Lora] = {}
    for name, lora in loras.items():
        module, depth = name.replace(_NESTED, ""), name.count(_NESTED)
        leaves = inside.get(tail(module), [])
        if lora.experts or depth >= len(leaves):
            found[name] = lora
        else:
            found[f"{module}.{leaves[len(leaves) - 1 - depth]}"] = lora
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """A source is the part `number` of those that make `place`."""

    place: Place
    number: int
    parts: tuple[str, ...]


def placed(loras: Mapping[str, Lora], index: BaseIndex) -> dict[str, Lora]:
    """The LoRAs by the place of the base model that each is put on.

    Raises `Misfit` for one that finds no place or does not have its shape, for a place that gets
    two or a part of what it needs, and where of the same matrix in all layers some get none.
    """
    found: dict[str, Lora] = {}
    parts: defaultdict[str, dict[int, Lora]] = defaultdict(dict)
    wanted: dict[str, _Part] = {}

    def put(place: Place, lora: Lora) -> None:
        if place.name in found:
            raise Misfit(f"Two LoRAs of the adapter are for {place.name} of {index.name}.")
        found[place.name] = _fitting(place, lora, index)

    for name, lora in _stacked(loras, index).items():
        if (place := _located(name, index)) is not None:
            put(place, lora)
        elif (part := _part_of(name, index)) is not None:
            parts[part.place.name][part.number] = lora
            wanted[part.place.name] = part
        else:
            for place, piece in _pieces(name, lora, index):
                put(place, piece)
    for name, given in parts.items():
        part = wanted[name]
        missing = [one for number, one in enumerate(part.parts) if number not in given]
        if missing:
            raise Misfit(
                f"{name} of {index.name} is made of {', '.join(part.parts)}, and the adapter has "
                f"nothing for {' and '.join(missing)}."
            )
        put(part.place, _below_each_other([given[number] for number in sorted(given)]))
    _require_all_layers(found, index)
    return found


def _spelled(name: str) -> list[str]:
    parent, dot, last = name.rpartition(".")
    return [name] + ([f"{parent}{dot}{_SPELLINGS[last]}"] if last in _SPELLINGS else [])


def _located(name: str, index: BaseIndex) -> Place | None:
    if name.rpartition(".")[2] in _UNEMBED:
        return index.places.get(index.unembed)
    for spelled in _spelled(name):
        if spelled in index.places:
            return index.places[spelled]
        found = index.by_tail.get(tail(spelled), [])
        if len(found) > 1:
            raise Misfit(
                f"{name} of the adapter may be {found[0].name} or {found[1].name} of {index.name}."
            )
        if found:
            return found[0]
    return None


def _exchanged(name: str, token: str, other: str) -> str | None:
    """The name with one word of its last part exchanged; None where it does not have that."""
    parent, dot, last = name.rpartition(".")
    changed, count = re.subn(rf"(?<![A-Za-z0-9]){token}(?![A-Za-z0-9])", other, last, count=1)
    return f"{parent}{dot}{changed}" if count else None


def _part_of(name: str, index: BaseIndex) -> _Part | None:
    """The place that a source is a part of, where the base model has several as one matrix."""
    for spelled in _spelled(name):
        for fused, parts in _FUSED.items():
            for number, part in enumerate(parts):
                whole = _exchanged(spelled, part, fused)
                if whole and (place := _located(whole, index)) is not None:
                    return _Part(place, number, parts)
    return None


def _pieces(name: str, lora: Lora, index: BaseIndex) -> list[tuple[Place, Lora]]:
    """A source that is several places of the base model: rows of one matrix, experts, or both."""
    found = _split(name, lora, index)
    if not found:
        raise Misfit(
            f"{name} of the adapter has no place in {index.name}: PEFT would leave it out, so it "
            "is not handed out. It was trained over another base model, or the server names its "
            "modules in a way that is not known here."
        )
    return found


def _split(name: str, lora: Lora, index: BaseIndex) -> list[tuple[Place, Lora]]:
    if (place := _located(name, index)) is not None:
        return [(place, lora)]
    for fused, parts in _FUSED.items():
        names = [one for part in parts if (one := _exchanged(name, fused, part)) is not None]
        rows = [_rows_of(one, index) for one in names]
        if names and all(rows):
            if sum(rows) != lora.up.shape[-2]:
                raise _other_shape(name, list(lora.up.shape), f"{sum(rows)} rows", index)
            ups: Sequence[Tensor] = cast(Any, lora.up).split(rows, dim=-2)
            each = [
                _split(one, Lora(lora.down, up), index) for one, up in zip(names, ups, strict=True)
            ]
            return [piece for pieces in each for piece in pieces]
    if not lora.experts or _EXPERTS not in name:
        return []
    each = [
        _split(_of_expert(name, number), Lora(lora.down[number], lora.up[number]), index)
        for number in range(lora.experts)
    ]
    return [piece for pieces in each for piece in pieces] if all(each) else []


def _of_expert(name: str, number: int) -> str:
    return name.replace(_EXPERTS, f"{_EXPERTS}{number}.")


def _rows_of(name: str, index: BaseIndex) -> int:
    """Of a place, or of that of the first expert; 0 where there is neither."""
    place = _located(name, index) or _located(_of_expert(name, 0), index)
    return 0 if place is None else place.outputs


def _stacked(loras: Mapping[str, Lora], index: BaseIndex) -> dict[str, Lora]:
    """LoRAs of single experts as one, where the base has the experts in one parameter."""
    found: dict[str, Lora] = {}
    single: defaultdict[str, dict[int, Lora]] = defaultdict(dict)
    for name, lora in loras.items():
        match = _EXPERT.fullmatch(name)
        if match is None or _located(name, index) is not None:
            found[name] = lora
        else:
            single[f"{match['experts']}.{match['leaf']}"][int(match["number"])] = lora
    for name, by_number in single.items():
        ranks = {lora.rank for lora in by_number.values()}
        if sorted(by_number) != list(range(len(by_number))) or len(ranks) > 1:
            raise Misfit(
                f"{name} of the adapter has LoRAs of {len(by_number)} experts that are not "
                "numbered from 0 without a gap, or not of one rank."
            )
        each = [by_number[number] for number in sorted(by_number)]
        found[name] = Lora(
            torch.stack([lora.down for lora in each]), torch.stack([lora.up for lora in each])
        )
    return found


def _below_each_other(parts: Sequence[Lora]) -> Lora:
    """One product whose rows are those of the parts, one part below the other."""
    down = torch.cat([part.down for part in parts], dim=-2)
    rows, ranks = sum(part.up.shape[-2] for part in parts), sum(part.rank for part in parts)
    up = parts[0].up.new_zeros((*parts[0].up.shape[:-2], rows, ranks))
    row = rank = 0
    for part in parts:
        up[..., row : row + part.up.shape[-2], rank : rank + part.rank] = part.up
        row, rank = row + part.up.shape[-2], rank + part.rank
    return Lora(down, up)


def _fitting(place: Place, lora: Lora, index: BaseIndex) -> Lora:
    """The LoRA, in the form [experts, …] where the place has experts."""
    if place.experts and not lora.experts and lora.rank % place.experts == 0:
        lora = _of_experts(lora, place.experts)
    shape = (lora.experts, int(lora.up.shape[-2]), int(lora.down.shape[-1]))
    wanted = (place.experts, place.outputs, place.inputs)
    if shape != wanted:
        raise _other_shape(place.name, _written(shape), _written(wanted), index)
    return lora


def _written(shape: tuple[int, int, int]) -> list[int]:
    return list(shape if shape[0] else shape[1:])


def _other_shape(name: str, shape: object, wanted: object, index: BaseIndex) -> Misfit:
    return Misfit(
        f"The adapter changes {name} as a matrix of {shape}, and in {index.name} it has {wanted}: "
        "it was trained over another base model."
    )


def _of_experts(lora: Lora, experts: int) -> Lora:
    """PEFT's flat form (`peft.tuners.lora.ParamWrapper`): `down` [experts * r, inputs] counts ranks
    within experts, `up` [outputs, r * experts] experts within ranks."""
    down = lora.down.reshape(experts, -1, lora.down.shape[-1])
    up = lora.up.reshape(len(lora.up), -1, experts).permute(2, 0, 1)
    return Lora(down, up)


def flat(lora: Lora) -> Lora:
    """The inverse of `_of_experts`; a plain one as it is."""
    if not lora.experts:
        return lora
    down = lora.down.reshape(-1, lora.down.shape[-1])
    up = lora.up.permute(1, 2, 0).reshape(lora.up.shape[1], -1)
    return Lora(down, up)


def _require_all_layers(found: Mapping[str, Lora], index: BaseIndex) -> None:
    """Where a matrix is adapted in one layer it is in all: else the adapter is not whole."""
    for pattern in {index.places[name].pattern for name in found}:
        of_all = [place.name for place in index.by_pattern[pattern]]
        missing = [name for name in of_all if name not in found]
        if missing:
            raise Misfit(
                f"The adapter has nothing for {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + f", and something for {len(of_all) - len(missing)} others of {pattern} in "
                f"{index.name}: it is not whole, or was trained over another base model."
            )
