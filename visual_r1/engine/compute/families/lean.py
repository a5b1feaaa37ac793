"""A decode step over the checkpoint's own weights: one token a row, and no module calls.

A module path spends most of such a step on Python, casts and allocations. Here the products that
read the same input are one (queries, keys and values; gate and up), the two products of a LoRA are
applied for all of these together, and every result is written into memory that is kept. Products
and norms come out as the modules' do, on a CPU in float32 to the bit (for ranks that are powers of
two of 16 or more): a column of a product does not depend on the columns beside it, a LoRA's zeros
add nothing, and the order of additions is the modules'. Attention is put together of two parts (see
`shared_prefix`), so log-probabilities differ from the modules' by rounding, 1.4e-5 at most on the
shipped model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.shared_prefix import Layout, SharedCache, attention

LowRank: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""Of an adapter, by the name of the module it sits on: A [rank, in], and B [out, rank] scaled."""

_TABLE = 1024
"""Rotary angles are computed for so many positions at a time."""


Low: TypeAlias = tuple[Tensor, Tensor] | None
"""What one product has of an adapter: Aᵀ of its modules side by side [in, r], and their Bᵀ scaled,
in the blocks of a matrix [r, out] that is zero elsewhere."""


class Product:
    """x Wᵀ of several linear modules side by side, and what an adapter adds to them."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        """Raises `KeyError` where one of them is no plain matrix without a bias."""
        self._names = tuple(names)
        linears = [_linear(network, name) for name in names]
        self._widths = [linear.weight.shape[0] for linear in linears]
        self._weight_t = _side_by_side(linears).t()
        self.out = sum(self._widths)
        self.low: Low = None

    @property
    def rank(self) -> int:
        """r of what is bound, 0 without."""
        return 0 if self.low is None else self.low[0].shape[1]

    def prepared(self, adapter: LowRank) -> Low:
        """What `low` is to be for this adapter."""
        found = [adapter.get(name) for name in self._names]
        sides = [pair for pair in found if pair is not None]
        if not sides:
            return None
        a_t = torch.cat([a for a, _ in sides]).to(self._weight_t.dtype).t()
        b_t = a_t.new_zeros(a_t.shape[1], self.out)
        row = column = 0
        for pair, width in zip(found, self._widths, strict=True):
            if pair is not None:
                below = row + pair[1].shape[1]
                b_t[row:below, column : column + width] = pair[1].t()
                row = below
            column += width
        return a_t, b_t

    def into(self, x: Tensor, out: Tensor, between: Tensor) -> Tensor:
        """[R, in] to `out` [R, out], by way of `between` [R, r]."""
        torch.mm(x, self._weight_t, out=out)
        if self.low is not None:
            torch.mm(x, self.low[0], out=between)
            out.addmm_(between, self.low[1])
        return out


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


class _Norm:
    """RMS norm (Zhang & Sennrich, 2019) over the last dimension."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self._weight, self._epsilon = weight.detach(), epsilon

    def __call__(self, x: Tensor) -> Tensor:
        # Rounded before the weight, as the modules do it.
        return functional.rms_norm(x, x.shape[-1:], eps=self._epsilon).mul_(self._weight)


@dataclass
class _Layer:
    before_attention: _Norm
    qkv: Product
    heads_norm: _Norm
    """Of queries and keys, whose heads lie side by side: weight [heads + key heads, width]."""
    output: Product
    before_mlp: _Norm
    gate_up: Product | None
    down: Product | None
    mlp: Callable[[Tensor], Tensor] | None
    """A mixture of experts is called as the module that it is."""

    @property
    def products(self) -> list[Product]:
        return [one for one in (self.qkv, self.output, self.gate_up, self.down) if one]


class LeanQwen3:
    """The text stack of a Qwen3-VL, dense or with experts, for one new token a row."""

    def __init__(self, network: nn.Module, text_stack: str, unembed: str) -> None:
        """Raises `KeyError` or `AttributeError` where the network is built in another way."""
        stack: Any = network.get_submodule(text_stack)
        config: Any = stack.config
        if config.rope_parameters["rope_type"] != "default" or config.hidden_act != "silu":
            raise KeyError("rope_type")  # angles that depend on the length, or another MLP
        self.heads = int(config.num_attention_heads)
        self.key_heads = int(config.num_key_value_heads)
        self.width = int(config.head_dim)
        self._rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = stack.rotary_emb
        self.embedding: Tensor = stack.embed_tokens.weight.detach()
        self.layers = [
            self._layer(network, f"{text_stack}.layers.{number}", layer)
            for number, layer in enumerate(stack.layers)
        ]
        self._norm = _Norm(stack.norm.weight, stack.norm.variance_epsilon)
        self.unembed = Product(network, [unembed])
        self.products = [one for layer in self.layers for one in layer.products]
        self.products.append(self.unembed)
        self._angles = self.embedding.new_zeros(0, 2 * self.width)
        self._ranks: tuple[int, ...] = ()
        self._version = 0
        """Changes with the place of anything that all caches share."""

    def _layer(self, network: nn.Module, name: str, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        q_norm, k_norm = attention.q_norm.weight, attention.k_norm.weight
        norms = torch.cat(
            [q_norm.expand(self.heads, -1), k_norm.expand(self.key_heads, -1)]
        ).detach()
        dense = hasattr(mlp, "gate_proj")
        return _Layer(
            before_attention=_norm_of(layer.input_layernorm),
            qkv=Product(network, [f"{name}.self_attn.{side}_proj" for side in "qkv"]),
            heads_norm=_Norm(norms, attention.q_norm.variance_epsilon),
            output=Product(network, [f"{name}.self_attn.o_proj"]),
            before_mlp=_norm_of(layer.post_attention_layernorm),
            gate_up=Product(network, [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"])
            if dense
            else None,
            down=Product(network, [f"{name}.mlp.down_proj"]) if dense else None,
            mlp=None if dense else mlp,
        )

    @property
    def can_be_recorded(self) -> bool:
        """Whether a step is the same work whatever the tokens: experts are chosen by them."""
        return all(layer.mlp is None for layer in self.layers)

    def prepared(self, adapter: LowRank) -> tuple[Low, ...]:
        """An adapter as `use` takes it; of none at all, the base model alone."""
        return tuple(product.prepared(adapter) for product in self.products)

    def use(self, prepared: tuple[Low, ...], *, in_place: bool = False) -> None:
        """Compute with this adapter from now on.

        With `in_place` it is copied to where the last one of its shape was.
        """
        moved = False
        for product, low in zip(self.products, prepared, strict=True):
            held = product.low
            if in_place and low is not None and held is not None and _alike(low, held):
                for to, of in zip(held, low, strict=True):
                    to.copy_(of)
            elif low is not held:
                moved = True
                # What is written over must be nobody else's.
                copied = None if low is None else (low[0].clone(), low[1].clone())
                product.low = copied if in_place else low
        self._version += moved
        self._ranks = tuple(product.rank for product in self.products)

    def settle(self, cache: SharedCache) -> object:
        """Be ready for what the cache shows; what is equal here is computed in the same memory."""
        buffers: _Buffers | None = cache.buffers
        wanted = (cache.generation, self._ranks)
        if buffers is None or buffers.made_for != wanted:
            buffers = cache.buffers = _Buffers(self, cache, wanted)
        buffers.take_layout()
        return self._version, *wanted, buffers.layout.shape

    def __call__(self, tokens: Tensor, positions: Tensor, cache: SharedCache) -> Tensor:
        """Tokens and positions int64 [R] to logits [R, V] of the next ones; the cache grows."""
        self.settle(cache)
        buffers: _Buffers = cache.buffers
        cache.answers.open_next()
        torch.index_select(self._angles, 0, positions, out=buffers.angles)
        hidden = buffers.hidden
        torch.index_select(self.embedding, 0, tokens, out=hidden)
        for number, layer in enumerate(self.layers):
            self._attend(layer, number, hidden, buffers, cache.answers.here)
            normed = layer.before_mlp(hidden)
            if layer.gate_up is not None and layer.down is not None:
                layer.gate_up.into(normed, buffers.gate_up, buffers.between(layer.gate_up))
                gated = functional.silu(buffers.gate, inplace=True).mul_(buffers.up)
                layer.down.into(gated, buffers.output, buffers.between(layer.down))
                hidden.add_(buffers.output)
            else:
                mixed = cast("Callable[[Tensor], Tensor]", layer.mlp)(normed[:, None])
                hidden.add_(mixed[:, 0])
        logits = self.unembed.into(
            self._norm(hidden), buffers.logits, buffers.between(self.unembed)
        )
        cache.answers.close()
        return logits

    def _attend(
        self,
        layer: _Layer,
        number: int,
        hidden: Tensor,
        buffers: "_Buffers",
        here: tuple[Tensor, Tensor],
    ) -> None:
        normed = layer.before_attention(hidden)
        layer.qkv.into(normed, buffers.qkv, buffers.between(layer.qkv))
        turned = layer.heads_norm(buffers.queries_and_keys)
        # x cos + rotate_half(x) sin; the sine carries the sign of the half.
        halves: Tensor = cast(Any, turned.view(*turned.shape[:-1], 2, -1)).flip(2)
        halves = halves.view(turned.shape).mul_(buffers.sin)
        turned.mul_(buffers.cos).add_(halves)
        queries, keys = buffers.parts(turned)
        all_keys, all_values, write_keys, write_values = buffers.answers[number]
        write_keys.index_put_(here, keys)
        write_values.index_put_(here, buffers.values)
        scale, width = self.width**-0.5, self.width
        own, own_sums = attention(queries, all_keys, all_values, buffers.mask, scale)
        layout = buffers.layout
        in_tiles = turned.view(-1, width).index_select(0, layout.queries)
        prompt, prompt_sums = attention(
            in_tiles.view(*layout.shape, width),
            *buffers.prompts[number],
            buffers.prompt_mask,
            scale,
        )
        prompt = prompt.transpose(1, 2).reshape(-1, width).index_select(0, layout.outputs)
        share = prompt_sums.transpose(1, 2).reshape(-1).index_select(0, layout.outputs)
        share = share.view(own_sums.shape).sub_(own_sums).sigmoid_().to(own.dtype)
        torch.lerp(own, prompt.view(own.shape), share[..., None], out=buffers.attended)
        layer.output.into(buffers.attended_flat, buffers.output, buffers.between(layer.output))
        hidden.add_(buffers.output)

    def cache(self, rows: int, places: int, block: int) -> SharedCache:
        """Room for what it keeps: of each prompt once."""
        return SharedCache(rows, places, block, self.embedding.device, self.embedding.dtype)

    def reach(self, positions: int) -> None:
        """Have the rotary angles of so many positions at least."""
        have = len(self._angles)
        if positions <= have:
            return
        wanted = torch.arange(max(positions, have + _TABLE), device=self._angles.device)
        cos, sin = self._rotary(self.embedding, wanted.expand(3, 1, -1))
        low, high = split(sin[0], self.width // 2, dim=-1)
        self._angles = torch.cat([cos[0], -low, high], dim=-1)
        self._version += 1


def _alike(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return one[0].shape == other[0].shape and one[1].shape == other[1].shape


def _norm_of(module: Any) -> _Norm:
    return _Norm(module.weight, float(module.variance_epsilon))


class _Buffers:
    """The memory of a step and its views, for one shape of what the cache shows."""

    def __init__(self, stack: LeanQwen3, cache: SharedCache, made_for: object) -> None:
        self.made_for = made_for
        rows, like = cache.rows, stack.embedding
        heads, key_heads, width = stack.heads, stack.key_heads, stack.width

        def empty(*shape: int) -> Tensor:
            return like.new_empty(rows, *shape)

        answers = cache.answers
        self.cache, self.mask = cache, answers.mask
        self.prompt_mask = cache.prompt_mask
        self.hidden, self.output = empty(like.shape[1]), empty(like.shape[1])
        self.angles = empty(2 * width)
        self.cos, self.sin = split(self.angles[:, None], width, dim=-1)
        self.qkv = empty((heads + 2 * key_heads) * width)
        by_head = self.qkv.view(rows, -1, width)
        self.queries_and_keys = by_head[:, : heads + key_heads]
        self.values = by_head[:, heads + key_heads :]
        self._cut = (heads, key_heads)
        self._packed = (rows, key_heads, heads // key_heads, width)
        self.attended = empty(*self._packed[1:])
        self.attended_flat = self.attended.view(rows, -1)
        mlps = [layer.gate_up for layer in stack.layers if layer.gate_up is not None]
        inner = mlps[0].out if mlps else 0
        self.gate_up = empty(inner)
        self.gate, self.up = self.gate_up[:, : inner // 2], self.gate_up[:, inner // 2 :]
        self.logits = empty(stack.unembed.out)
        self._between = {rank: empty(rank) for rank in {one.rank for one in stack.products}}
        layers = range(len(stack.layers))
        self.answers = [(*answers.views(n), *answers.places(n)) for n in layers]
        self.prompts = [cache.prompt_views(n) for n in layers]
        self._vectors = (heads, key_heads, heads + key_heads)
        self._given: Layout | None = None
        self.layout: Layout = cache.layout(*self._vectors)
        """How the queries lie in tiles now."""

    def take_layout(self) -> None:
        """The cache's layout of now: in the memory of the last one where its shape is the same."""
        given = self.cache.layout(*self._vectors)
        if given is self._given:
            return
        self._given = given
        if self.layout.shape == given.shape:
            self.layout.queries.copy_(given.queries)
            self.layout.outputs.copy_(given.outputs)
        else:
            self.layout = given

    def between(self, product: Product) -> Tensor:
        """Room between the two products of an adapter."""
        return self._between[product.rank]

    def parts(self, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Queries packed by the key head that serves them [R, key heads, n, width], and keys."""
        queries, keys = split(turned, self._cut, dim=1)
        return queries.view(self._packed), keys
