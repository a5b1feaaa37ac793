"""Gated delta-net: linear attention whose memory is a matrix a head, however much it has read.

Yang, Kautz & Hatamizadeh, "Gated Delta Networks" (2025). With keys k and queries q of length 1,
values v, a decay exp(g) <= 1 and a strength 0 <= β <= 1 of each place, the memory S [d_k, d_v] and
the output o of a head are

    S_t = exp(g_t) (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,        o_t = S_tᵀ q_t / sqrt(d_k).

Many places are computed chunk by chunk (`chunked`), one place is a step of the formula (`step`).
A place with g = 0 and β = 0 leaves the memory as it is, to the bit of every number: so padding is
kept out of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.cache import State, StateCache
from visual_r1.engine.compute.packing import Packing

CHUNK = 32
"""Places that are computed at once: a multiple of `batching.ROWS`.

Longer chunks have fewer steps and more work within each, and more padding behind short answers. On
a CPU, forward and back, 16 takes up to a quarter longer, and 64 the same within a tenth.
"""


class GatedDeltaNet(nn.Module):
    """Takes the place of transformers' `Qwen3_5GatedDeltaNet`, with its weights and their names.

    That one has no way to keep padding behind a prompt out of its state, and its convolution picks
    an algorithm by the size of the batch.
    """

    def __init__(self, original: nn.Module) -> None:
        """Take over modules and parameters; adapters and exports know them by their names."""
        super().__init__()
        for name, module in original.named_children():
            self.add_module(name, module)
        for name, parameter in original.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        given = cast(Any, original)
        self.layer_idx = int(given.layer_idx)
        self.key_width, self.value_width = int(given.head_k_dim), int(given.head_v_dim)
        self.sizes = (int(given.key_dim), int(given.key_dim), int(given.value_dim))

    def forward(
        self,
        hidden_states: Tensor,
        cache: StateCache | None = None,
        packing: Packing | None = None,
        **_: Any,
    ) -> Tensor:
        """Hidden states [B, L, width] to the layer's output of the same shape.

        The state is (the last places that the convolution has still to see [B, kernel − 1,
        channels], S [B, heads, d_k, d_v]). With a `packing`, [1, N, width] are its places.
        """
        this = cast(Any, self)
        read = _Read(this.in_proj_qkv(hidden_states), *self._pace(hidden_states))
        if packing is not None:
            output = self._packed(read, packing)
        else:
            before = None if cache is None else cache.state(self.layer_idx)
            lengths = None if cache is None else cache.lengths
            output, state = self._recur(read, before, lengths)
            if cache is not None:
                cache.keep_state(self.layer_idx, state)
        gate: Tensor = this.in_proj_z(hidden_states)
        flat = output.to(hidden_states.dtype).reshape(-1, self.value_width)
        output = this.norm(flat, gate.reshape(-1, self.value_width))
        return this.out_proj(output.view(*hidden_states.shape[:2], -1))

    def _pace(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """g and β of each place, [B, L, heads]."""
        this = cast(Any, self)
        # In half precision the exponential could be infinite.
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        pace = functional.softplus(this.in_proj_a(hidden_states).to(dtype) + this.dt_bias.to(dtype))
        return -this.A_log.to(dtype).exp() * pace, this.in_proj_b(hidden_states).sigmoid()

    def _packed(self, read: "_Read", packing: Packing) -> Tensor:
        """Outputs [N, heads, d_v]: roots from nothing, branches from what their root left."""
        columns = (packing.into_blocks(part[0]) for part in (read.mixed, read.decay, read.strength))
        blocks = [_Read(*parts) for parts in zip(*columns, strict=True)]
        outputs: list[Tensor] = []
        states: list[State] = []
        for roots, block in zip(packing.roots, blocks, strict=False):
            output, state = self._recur(block, None, roots.lengths)
            outputs.append(output)
            states.append(state)
        for branches, block in zip(packing.branches, blocks[len(packing.roots) :], strict=True):
            before = tuple(branches.copies(part) for part in states[branches.roots])
            # Padding behind a branch is in nobody's way.
            output, _ = self._recur(block, before, None)
            outputs.append(output)
        return packing.from_blocks(outputs)

    def _recur(
        self, read: "_Read", before: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        """Outputs [B, L, heads, d_v] and the state behind the last place (behind `lengths`)."""
        rows, places, _ = read.mixed.shape
        weight: Tensor = cast(Any, self).conv1d.weight[:, 0]
        kernel = weight.shape[1]
        if before is None:
            tail, memory = read.mixed.new_zeros(rows, kernel - 1, read.mixed.shape[2]), None
        else:
            tail, memory = before
        window = torch.cat([tail, read.mixed], dim=1)
        mixed = functional.silu(convolved(window, weight))
        query, key, value = split(mixed, self.sizes, dim=2)
        decay, strength = read.decay, read.strength
        if lengths is not None:
            padding = (torch.arange(places, device=lengths.device) >= lengths[:, None])[..., None]
            strength, decay = strength.masked_fill(padding, 0.0), decay.masked_fill(padding, 0.0)
        output, memory = delta_rule(
            query.view(rows, places, -1, self.key_width),
            key.view(rows, places, -1, self.key_width),
            value.view(rows, places, -1, self.value_width),
            decay,
            strength,
            memory,
        )
        return output, (last_places(window, kernel, lengths), memory)


@dataclass(frozen=True)
class _Read:
    """What the layer reads of each place, [B, L, …]."""

    mixed: Tensor
    """Queries, keys and values in one."""
    decay: Tensor
    strength: Tensor


def convolved(window: Tensor, weight: Tensor) -> Tensor:
    """Each channel's causal convolution: [B, L + K − 1, C] and [C, K] to [B, L, C].

    As K products, so that no number depends on the others computed with it.
    """
    kernel = weight.shape[1]
    places = window.shape[1] - kernel + 1
    terms = [window[:, shift : shift + places] * weight[:, shift] for shift in range(kernel)]
    return sum(terms[1:], terms[0])


def last_places(window: Tensor, kernel: int, lengths: Tensor | None) -> Tensor:
    """The K − 1 places that end a sequence, of [B, K − 1 + L, C]; all L places without lengths."""
    if lengths is None:
        return window[:, window.shape[1] - (kernel - 1) :]
    index = lengths[:, None] + torch.arange(kernel - 1, device=lengths.device)
    return window.gather(1, index[..., None].expand(-1, -1, window.shape[2]))


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., d] at length 1, very short ones below it: the checkpoints were trained so."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-6)


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    strength: Tensor,
    memory: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, L, H, d_v] and the memory [B, H, d_k, d_v] behind the last place.

    Queries and keys [B, L, H_k, d_k] are of any length here; a head of theirs serves H / H_k heads
    of values [B, L, H, d_v]. `decay` is g, `strength` β, [B, L, H] both; `memory` None is nothing
    but zeros. Computed in float32 at least.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    rows, places, heads, value_width = value.shape
    key_width, shared = key.shape[-1], heads // key.shape[2]
    query = (unit(query.to(dtype)) * key_width**-0.5).repeat_interleave(shared, dim=2)
    key = unit(key.to(dtype)).repeat_interleave(shared, dim=2)
    by_head = [part.to(dtype).transpose(1, 2) for part in (query, key, value, decay, strength)]
    if memory is None:
        memory = value.new_zeros(rows, heads, key_width, value_width, dtype=dtype)
    if places == 1:
        output, memory = step(*(part[:, :, 0] for part in by_head), memory=memory)
        return output[:, None], memory
    output, memory = chunked(*by_head, memory=memory)
    return output.transpose(1, 2), memory


def step(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, strength: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """One place: [B, H, d_k], [B, H, d_v] and [B, H] to the output [B, H, d_v] and the memory."""
    decayed = decay.exp()[..., None]
    # What the memory holds for the key, and for the query, in one pass over it.
    held = torch.stack([key, query], dim=2) @ memory
    delta = strength[..., None] * (value - decayed * held[:, :, 0])
    output = decayed * held[:, :, 1] + (query * key).sum(-1, keepdim=True) * delta
    memory = (memory * decayed[..., None]).addcmul_(key[..., None], delta[:, :, None])
    return output, memory


def chunked(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, strength: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """L places: [B, H, L, d_k], [B, H, L, d_v] and [B, H, L] to outputs [B, H, L, d_v] and memory.

    What the places of a chunk write depends on what those before them wrote, through a triangular
    system (the UT transform of Yang et al., 2024, "Parallelizing Linear Transformers with the Delta
    Rule"); it is solved for all chunks together, and then the memory goes from chunk to chunk.
    """
    places = value.shape[2]

    def cut(part: Tensor) -> Tensor:
        """[B, H, L, …] to [B, H, chunks, CHUNK, …], the last chunk filled up with zeros."""
        missing = (*part.shape[:2], -places % CHUNK, *part.shape[3:])
        whole = torch.cat([part, part.new_zeros(missing)], dim=2)
        return whole.view(*part.shape[:2], -1, CHUNK, *part.shape[3:])

    query, key, value, decay, strength = map(cut, (query, key, value, decay, strength))
    since_start = decay.cumsum(-1)
    ahead = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=value.device).triu(1)
    # exp(g) from place j to place i, behind it; nothing of what lies ahead.
    between = (since_start[..., :, None] - since_start[..., None, :]).masked_fill(ahead, -torch.inf)
    between = between.exp()
    grown = since_start.exp()[..., None]

    keys = key.transpose(-1, -2)
    written = key * strength[..., None]
    # The solver takes the diagonal for ones, and never looks above it.
    system = (written @ keys) * between
    wanted = torch.cat([value * strength[..., None], written * grown], dim=-1)
    solve: Callable[..., Tensor] = cast(Any, torch.linalg).solve_triangular
    solved = solve(system, wanted, upper=False, unitriangular=True)
    new, read = split(solved, (value.shape[-1], key.shape[-1]), dim=-1)

    within = (query @ keys) * between
    query = query * grown
    keys = keys * (since_start[..., -1:] - since_start).exp()[..., None, :]
    whole = grown[..., -1:, :]
    outputs: list[Tensor] = []
    for chunk in range(value.shape[2]):
        corrected = new[:, :, chunk] - read[:, :, chunk] @ memory
        outputs.append(query[:, :, chunk] @ memory + within[:, :, chunk] @ corrected)
        memory = memory * whole[:, :, chunk] + keys[:, :, chunk] @ corrected
    return torch.cat(outputs, dim=2)[:, :, :places], memory
