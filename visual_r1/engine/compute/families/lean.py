"""A decode step over the checkpoint's own weights: one token a row, and no module calls.

A module path spends most of such a step on Python, casts and allocations. Here the products that
read the same input are one (queries, keys and values; gate and up), an adapter is added to them for
all of these together or is in the weights already (see `products`), and every result is written
into memory that is kept. Log-probabilities differ from the learner's by rounding, 3e-5 at most on
the shipped model (7,680 tokens of a random adapter); on a CPU in float32 a row's are the same bits
whatever rows are beside it.

Attention reads a group's prompt once (see `shared_prefix`): on a card in two parts by fused
kernels, on a CPU by products with one softmax over prompt and answer together.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.cache import PromptCache, PromptReader
from visual_r1.engine.compute.families.joint_attention import BLOCK, JointAttention
from visual_r1.engine.compute.families.lean_prompts import PromptPass
from visual_r1.engine.compute.families.lean_stack import Layer, LeanStack, Norm, Rotation
from visual_r1.engine.compute.families.products import Bound, LowRank, Product, alike
from visual_r1.engine.compute.shared_prefix import Layout, SharedCache, attention

_TABLE = 1024
"""Rotary angles are computed for so many positions at a time."""


class LeanQwen3:
    """The text stack of a Qwen3-VL, dense or with experts, for one new token a row."""

    def __init__(self, network: nn.Module, text_stack: str, unembed: str) -> None:
        """Raises `KeyError` or `AttributeError` where the network is built in another way."""
        self.stack = LeanStack(network, text_stack, unembed)
        self._angles = self.stack.embedding.new_zeros(0, 2 * self.stack.width)
        self._used: tuple[Bound, ...] | None = None
        self._ranks: tuple[int, ...] = ()
        self.joint = False
        """Whether attention has one softmax; queries come out scaled for it."""
        self._attend: Callable[..., None] | None = None
        """A card's own kernels for attention."""
        self._version = 0
        """Changes with the place of anything that all caches share."""

    @property
    def read_prompts(self) -> PromptReader | None:
        """What reads whole prompts with what is bound; None where it is left to the modules."""
        return self._read_prompts if self.joint else None

    def _read_prompts(
        self, embeddings: Tensor, positions: Tensor, further: Mapping[str, Any]
    ) -> tuple[Tensor, PromptCache]:
        return PromptPass(self.stack, embeddings, positions).run(further)

    @property
    def can_be_recorded(self) -> bool:
        """Whether a step is the same work whatever the tokens, by which experts are chosen."""
        mixtures = [layer.mixture for layer in self.stack.layers]
        return all(one is None or one.can_be_recorded for one in mixtures)

    def compute_alone(self, copied_bytes: int) -> None:
        """Compute as a CPU does in float32: attention with one softmax, and weights of up to so
        many bytes held a second time for it (see `products`)."""
        self.joint = True
        self.stack.compute_alone(copied_bytes)

    def compute_on(self, device: torch.device) -> str | None:
        """Compute as a card does, by kernels of our own; why not, where they do not compile or are
        not right."""
        try:
            kernels = import_module("visual_r1.engine.compute.card_attention")
            like = self.stack.embedding.new_empty(self.stack.width, device=device)
            kernels.require(self.stack.heads, self.stack.key_heads, like)
        except Exception as error:  # noqa: BLE001 - Triton, a C compiler, a folder may not be there
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._attend = kernels.attend
        return None

    def prepared(self, adapter: LowRank) -> tuple[Bound, ...]:
        """An adapter as `use` takes it; of none at all, the base model alone."""
        return tuple(one.prepared(adapter) for one in self.stack.adapted)

    def use(self, prepared: tuple[Bound, ...], *, in_place: bool = False) -> None:
        """Compute with this adapter from now on.

        With `in_place` it is copied to where the last one of its shape was.
        """
        if prepared is self._used:
            return
        self._used = None  # Where memory runs out half way, it is done again.
        moved = False
        for product, bound in zip(self.stack.adapted, prepared, strict=True):
            held = product.bound
            if bound is held:
                continue
            if in_place and alike(bound, held):
                for to, of in zip(held, bound, strict=True):
                    to.copy_(of)
            else:
                moved = True
                # What is written over must be nobody else's.
                product.bound = tuple(one.clone() for one in bound) if in_place else bound
        self._used = prepared
        self._version += moved
        self._ranks = tuple(product.rank for product in self.stack.products)

    def settle(self, cache: SharedCache) -> object:
        """Be ready for what the cache shows; what is equal here is computed in the same memory."""
        buffers: _Buffers | None = cache.buffers
        wanted = (cache.generation, self._ranks)
        if buffers is None or buffers.made_for != wanted:
            buffers = cache.buffers = _Buffers(self.stack, cache, wanted, joint=self.joint)
        buffers.take_layout(cache)
        return self._version, *wanted, buffers.layout.shape

    def __call__(
        self, tokens: Tensor, positions: Tensor, cache: SharedCache, logits: Tensor
    ) -> None:
        """Tokens and positions int64 [R]; the cache grows, and the logits of the next ones go to
        `logits`, float32 [R, V]."""
        self.settle(cache)
        buffers: _Buffers = cache.buffers
        cache.answers.open_next()
        torch.index_select(self._angles, 0, positions, out=buffers.angles)
        hidden = buffers.hidden
        if hidden.dtype == self.stack.embedding.dtype:
            torch.index_select(self.stack.embedding, 0, tokens, out=hidden)
        else:
            hidden.copy_(self.stack.embedding.index_select(0, tokens))
        for number, layer in enumerate(self.stack.layers):
            attended = self._attended(layer, number, buffers)
            layer.output.onto(attended, hidden, buffers.between(layer.output))
            normed = self._normed(layer.before_mlp, buffers)
            if layer.gate_up is not None and layer.down is not None:
                layer.gate_up.into(normed, buffers.gate_up, buffers.between(layer.gate_up))
                cast(Any, torch.ops.aten.silu).out(buffers.gate, out=buffers.gated)
                gated = buffers.gated.mul_(buffers.up)
                layer.down.onto(gated, hidden, buffers.between(layer.down))
            elif layer.mixture is not None:
                hidden.add_(layer.mixture(normed))
        normed = self._normed(self.stack.norm, buffers)
        self.stack.unembed.into(normed, logits, buffers.between(self.stack.unembed))
        cache.answers.close()

    def _normed(self, norm: Norm, buffers: "_Buffers") -> Tensor:
        if self.joint:
            return norm.alone_into(buffers.hidden, buffers.normed, buffers.root)
        return norm.into(buffers.hidden, buffers.normed)

    def _attended(self, layer: Layer, number: int, buffers: "_Buffers") -> Tensor:
        """What attention gives for each row: [R, heads * width]."""
        normed = self._normed(layer.before_attention, buffers)
        layer.qkv.into(normed, buffers.qkv, buffers.between(layer.qkv))
        heads = buffers.queries_and_keys
        if self.joint:
            layer.heads_norm.alone_into(heads, buffers.rotation.straight, buffers.heads_root)
        else:
            layer.heads_norm.into(heads, buffers.rotation.straight)
        buffers.rotation.turn()
        buffers.rows.write(buffers.written[number], buffers.keys, buffers.values)
        if self.joint:
            buffers.joint.attend(number, buffers.queries)
            return buffers.attended_flat
        vectors = buffers.rotation.turned.view(-1, self.stack.width)
        return self._in_two(number, buffers.queries, vectors, buffers)

    def _in_two(self, number: int, queries: Tensor, vectors: Tensor, buffers: "_Buffers") -> Tensor:
        """By fused kernels over the answers and over the prompts, put together by their sums."""
        if self._attend is not None:
            self._attend(
                vectors, queries, buffers.answers[number], buffers.rows.here[1],
                buffers.prompts[number], buffers.prompt_lengths, buffers.layout, buffers.attended,
            )  # fmt: skip
            return buffers.attended_flat
        scale, width = self.stack.width**-0.5, self.stack.width
        own, own_sums = attention(queries, *buffers.answers[number], buffers.mask, scale)
        layout = buffers.layout
        in_tiles = vectors.index_select(0, layout.queries)
        prompt, prompt_sums = attention(
            in_tiles.view(*layout.shape, width),
            *buffers.prompts[number],
            buffers.prompt_mask,
            scale,
        )
        prompt = prompt.transpose(1, 2).reshape(-1, width).index_select(0, layout.outputs)
        share = prompt_sums.transpose(1, 2).reshape(-1).index_select(0, layout.outputs)
        share = share.view(own_sums.shape).sub_(own_sums).sigmoid_()
        beyond = prompt.view(own.shape) - own
        # In float32, and rounded once.
        torch.addcmul(own, beyond, share[..., None], out=buffers.attended)
        return buffers.attended_flat

    def cache(self, rows: int, places: int, block: int, *, recorded: bool = False) -> SharedCache:
        """Room for what it keeps: of each prompt once; `recorded` steps look at no places."""
        device, dtype = self.stack.embedding.device, self.stack.embedding.dtype
        block = BLOCK if self.joint else block  # that needs no coarser one
        return SharedCache(rows, places, block, device, dtype, joint=self.joint, recorded=recorded)

    def reach(self, positions: int) -> None:
        """Have the rotary angles of so many positions at least."""
        have = len(self._angles)
        if positions <= have:
            return
        wanted = torch.arange(max(positions, have + _TABLE), device=self._angles.device)
        cos, sin = self.stack.rotary(self.stack.embedding, wanted.expand(3, 1, -1))
        low, high = split(sin[0], self.stack.width // 2, dim=-1)
        self._angles = torch.cat([cos[0], -low, high], dim=-1)
        self._version += 1


class _Buffers:
    """The memory of a step and its views, for one shape of what the cache shows."""

    def __init__(
        self, stack: LeanStack, cache: SharedCache, made_for: object, *, joint: bool
    ) -> None:
        self.made_for = made_for
        rows, like = cache.rows, stack.embedding
        heads, key_heads, width = stack.heads, stack.key_heads, stack.width

        def empty(*shape: int) -> Tensor:
            return like.new_empty(rows, *shape)

        answers = cache.answers
        # Not the cache itself, which has these: in a cycle both would outlive their batch.
        self.rows, self.mask = answers, answers.mask
        self.prompt_mask, self.prompt_lengths = cache.prompt_mask, cache.prompt_lengths
        self.hidden = empty(like.shape[1]).float()
        self.angles = empty(2 * width)
        cos, below, above = split(self.angles, [width, width // 2, width // 2], dim=1)
        self.rotation = Rotation(cos, below, above, heads + key_heads)
        self.qkv = empty((heads + 2 * key_heads) * width)
        by_head = self.qkv.view(rows, -1, width)
        self.queries_and_keys = by_head[:, : heads + key_heads]
        self.normed, self.root = empty(like.shape[1]), empty(1)
        self.heads_root = empty(heads + key_heads, 1)
        packed = (rows, key_heads, heads // key_heads, width)
        turned = self.rotation.turned
        self.queries = turned[:, :heads].view(packed)
        """Packed by the key head that serves them."""
        self.keys, self.values = turned[:, heads:], by_head[:, heads + key_heads :]
        self.attended = empty(*packed[1:])
        self.attended_flat = self.attended.view(rows, -1)
        mlps = [layer.gate_up for layer in stack.layers if layer.gate_up is not None]
        inner = mlps[0].out if mlps else 0
        self.gate_up = empty(inner)
        self.gate, self.up = self.gate_up[:, : inner // 2], self.gate_up[:, inner // 2 :]
        self.gated = empty(inner // 2)
        self._between = {rank: empty(rank) for rank in {one.rank for one in stack.products}}
        layers = range(len(stack.layers))
        self.answers = [answers.views(n) for n in layers]
        self.written = [answers.places(n) for n in layers]
        self.prompts = [cache.prompt_views(n) for n in layers]
        self._vectors = (heads, key_heads, heads + key_heads)
        self._given: Layout | None = None
        self.layout: Layout = cache.layout(*self._vectors)
        """How the queries lie in tiles now."""
        self._joint: JointAttention | None = None
        if joint:
            self._joint = JointAttention(self.answers, self.prompts, self.mask, self.attended)

    def take_layout(self, cache: SharedCache) -> None:
        """The cache's layout of now: in the memory of the last one where its shape is the same."""
        given = cache.layout(*self._vectors)
        if given is self._given:
            return
        self._given = given
        if self.layout.shape == given.shape:
            self.layout.take(given)
        else:
            self.layout = given
        if self._joint is not None:
            self._joint.take_layout(self.layout, self.prompt_mask)

    @property
    def joint(self) -> JointAttention:
        """Attention with one softmax, where the stack computes so."""
        assert self._joint is not None
        return self._joint

    def between(self, product: Product) -> Tensor:
        """Room between the two products of an adapter."""
        return self._between[product.rank]
