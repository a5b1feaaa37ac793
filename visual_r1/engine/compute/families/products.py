"""The matrix products of a lean step: of several linear modules at once, and with an adapter.

A base computes with the weights of its modules, which lie side by side. Where `DeviceRules` allow a
copy, they are held a second time: large matrices in the order in which oneDNN reads them (at 32
rows of the widths of a model of 60 million weights 84 GFLOP/s where the plain order gave 58), small
ones as [in, out]. An adapter is added to such a copy once, W + s · B A, instead of two more
products a step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.low_rank import product

LowRank: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""Of an adapter, by the name of the module it sits on: A [rank, in], and B [out, rank] scaled."""

Bound: TypeAlias = tuple[Tensor, ...]
"""What one product has of an adapter. Nothing; or Aᵀ of its modules side by side [in, r], and their
Bᵀ scaled, in the blocks of a matrix [r, out] that is zero elsewhere; or one matrix that stands for
the modules' own, packed or [in, out]."""

PACKED_FROM = 2**18
"""Weights of a matrix that is packed: of smaller ones a call costs more than it saves."""

_PACKED_FOR = 32
"""Rows that the packing is told of; any number may come, with the same bits."""


class Product:
    """x Wᵀ of several linear modules side by side, and what an adapter adds to them."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        """Raises `KeyError` where one of them is no plain matrix without a bias."""
        self._names = tuple(names)
        linears = [_linear(network, name) for name in names]
        self._widths = [linear.weight.shape[0] for linear in linears]
        self._weight_t = _side_by_side(linears).t()
        self._matrix = self._weight_t
        self._copies = False
        self._scale: Tensor | None = None
        self.out = sum(self._widths)
        self.bound: Bound = ()

    @property
    def bytes(self) -> int:
        """Of its weights."""
        return self._weight_t.nbytes

    @property
    def rank(self) -> int:
        """r of what is bound, 0 without."""
        return self.bound[0].shape[1] if len(self.bound) == 2 else 0

    def allow_copies(self, scale: Tensor | None = None) -> None:
        """Hold the weights as they are read fastest, and an adapter's added to them.

        With `scale` [in] the input comes without it, and the weights are multiplied by it.
        """
        self._copies, self._scale = True, scale
        self._matrix = self._copy(self._weight_t)

    def _copy(self, weight_t: Tensor) -> Tensor:
        scaled = weight_t if self._scale is None else weight_t * self._scale[:, None]
        return _packed(scaled) if self._packs else scaled.contiguous()

    @property
    def _packs(self) -> bool:
        enough = self._weight_t.numel() >= PACKED_FROM
        return enough and self._weight_t.dtype == torch.float32 and _can_pack()

    def prepared(self, adapter: LowRank) -> Bound:
        """What `bound` is to be for this adapter."""
        found = [adapter.get(name) for name in self._names]
        sides = [pair for pair in found if pair is not None]
        if not sides:
            return ()
        a_t = torch.cat([a for a, _ in sides]).to(self._weight_t.dtype).t()
        b_t = a_t.new_zeros(a_t.shape[1], self.out)
        row = column = 0
        for pair, width in zip(found, self._widths, strict=True):
            if pair is not None:
                below = row + pair[1].shape[1]
                b_t[row:below, column : column + width] = pair[1].t()
                row = below
            column += width
        if not self._copies:
            return a_t, b_t
        return (self._copy(torch.addmm(self._weight_t, a_t, b_t)),)

    def into(self, x: Tensor, out: Tensor, between: Tensor) -> Tensor:
        """[R, in] to `out` [R, out], by way of `between` [R, r]."""
        bound = self.bound
        matrix = bound[0] if len(bound) == 1 else self._matrix
        if out.dtype != x.dtype:
            return self._widened(x, out, between)
        if matrix.is_mkldnn:
            out.copy_(_of_packed(x, matrix))
        else:
            torch.mm(x, matrix, out=out)
        if len(bound) == 2:
            torch.mm(x, bound[0], out=between)
            out.addmm_(between, bound[1])
        return out

    def _widened(self, x: Tensor, out: Tensor, between: Tensor) -> Tensor:
        """To float32, of x in half precision: never rounded to it in between."""
        out.copy_(product(x, self._matrix))
        if self.bound:
            torch.mm(x, self.bound[0], out=between)
            out.addmm_(between.float(), self.bound[1].float())
        return out

    def of(self, x: Tensor) -> Tensor:
        """[R, in] to a new tensor [R, out]."""
        return self.into(x, x.new_empty(len(x), self.out), x.new_empty(len(x), self.rank))

    def onto(self, x: Tensor, total: Tensor, between: Tensor) -> None:
        """Add the product of x [R, in] to `total` [R, out], which may be wider than x."""
        bound = self.bound
        if total.dtype != x.dtype:
            # Rounded as the learner rounds it: what both round alike is no distance between them.
            total.add_(self.into(x, x.new_empty(len(x), self.out), between))
            return
        matrix = bound[0] if len(bound) == 1 else self._matrix
        if matrix.is_mkldnn:
            total.add_(_of_packed(x, matrix))
        else:
            total.addmm_(x, matrix)
        if len(bound) == 2:
            torch.mm(x, bound[0], out=between)
            total.addmm_(between, bound[1])


def alike(one: Bound, other: Bound) -> bool:
    """Whether one may be copied to where the other is."""
    shapes = [[part.shape for part in bound] for bound in (one, other)]
    return bool(one) and shapes[0] == shapes[1] and not any(part.is_mkldnn for part in one)


def _can_pack() -> bool:
    return bool(cast(Any, torch.backends.mkldnn).is_available())


def _packed(weight_t: Tensor) -> Tensor:
    """[in, out] in oneDNN's own order of [out, in]."""
    operators = cast(Any, torch.ops.mkldnn)
    return operators._reorder_linear_weight(weight_t.t().contiguous(), _PACKED_FOR)


def _of_packed(x: Tensor, matrix: Tensor) -> Tensor:
    """A new tensor [R, out]."""
    return cast(Any, torch.ops.mkldnn)._linear_pointwise(x, matrix, None, "none", [], "")


def _linear(network: nn.Module, name: str) -> nn.Linear:
    """The plain module of a name, with whatever adapter around it taken off."""
    module: Any = network.get_submodule(name)
    module = getattr(module, "base_layer", module)
    bias: object = getattr(module, "bias", None)
    if type(module) is not nn.Linear or bias is not None:
        raise KeyError(name)
    return module


def _side_by_side(linears: Sequence[nn.Linear]) -> Tensor:
    """All rows in one matrix, of which the modules' weights become parts: nothing is held twice."""
    if len(linears) == 1:
        return linears[0].weight.detach()
    joined = torch.cat([linear.weight.detach() for linear in linears])
    heights = [len(one.weight) for one in linears]
    for linear, part in zip(linears, split(joined, heights), strict=True):
        linear.weight.data = part
    return joined
