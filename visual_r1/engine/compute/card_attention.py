# pyright: basic, reportMissingImports=false, reportIndexIssue=false
# Triton comes with torch where torch is built for a card, and its language is not Python's.
"""Attention of a decode step on a card, where Triton (which comes with torch there) can compile.

Two kernels for what `shared_prefix` describes: each tile's queries over its prompt, then each row's
over its own answer, put together by the logarithms of their sums before anything is rounded. Each
reads the places that there are, and no more, whatever the shape of the step is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from visual_r1.engine.compute.shared_prefix import SHARERS, Layout

PLACES = 64
"""Places that are looked at at once."""

_HOW = {"num_warps": 4, "num_stages": 2}


@triton.jit
def _looked_at(
    q, keys, values, length, key_step, value_step, scale,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Queries [QUERIES, WIDTH] over `length` places: outputs, and the logarithms of the sums."""
    column, inner = tl.arange(0, PLACES), tl.arange(0, WIDTH)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    output = tl.zeros([QUERIES, WIDTH], tl.float32)
    for start in range(0, length, PLACES):
        place = start + column
        there = place < length
        k = tl.load(
            keys + place[None, :] * key_step + inner[:, None], mask=there[None, :], other=0.0
        )
        scores = tl.dot(q, k, input_precision="ieee" if EXACT else None) * scale
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        less = tl.exp(top - higher)
        total = total * less + tl.sum(shares, 1)
        v = tl.load(
            values + place[:, None] * value_step + inner[None, :], mask=there[:, None], other=0.0
        )
        output = output * less[:, None]
        output += tl.dot(shares.to(v.dtype), v, input_precision="ieee" if EXACT else None)
        top = higher
    return output / total[:, None], top + tl.log(total)


@triton.jit(do_not_specialize=["count"])
def _over_prompts(
    vectors, index, keys, values, lengths, output, sums, scale, count,
    key_row, key_head, key_step, value_row, value_head, value_step,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """A tile and a key head: its `count` queries are the vectors that `index` names."""
    tile, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    query, inner = tl.arange(0, QUERIES), tl.arange(0, WIDTH)
    real = query < count
    first = (tile * HEADS + head) * count
    vector = tl.load(index + first + query, mask=real, other=0)
    q = tl.load(vectors + vector[:, None] * WIDTH + inner[None, :])
    found, sum_of = _looked_at(
        q, keys + tile.to(tl.int64) * key_row + head * key_head,
        values + tile.to(tl.int64) * value_row + head * value_head,
        tl.load(lengths + tile), key_step, value_step, scale, QUERIES, WIDTH, PLACES, EXACT,
    )  # fmt: skip
    into = output + (first + query)[:, None] * WIDTH + inner[None, :]
    tl.store(into, found, mask=real[:, None])
    tl.store(sums + first + query, sum_of, mask=real)


@triton.jit(do_not_specialize=["count"])
def _over_answers(
    queries, keys, values, places, of_prompts, prompt_sums, index, output, scale, count, query_row,
    key_row, key_head, key_step, value_row, value_head, value_step,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """A row and a key head, whose `count` queries lie side by side; `places` is the last one that
    the row sees, and `index` says where each query's share of the prompt is."""
    row, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    query, inner = tl.arange(0, QUERIES), tl.arange(0, WIDTH)
    real = query < count
    given = queries + row.to(tl.int64) * query_row + (head * count + query)[:, None] * WIDTH
    q = tl.load(given + inner[None, :], mask=real[:, None], other=0.0)
    own, own_sum = _looked_at(
        q, keys + row.to(tl.int64) * key_row + head * key_head,
        values + row.to(tl.int64) * value_row + head * value_head,
        tl.load(places + row) + 1, key_step, value_step, scale, QUERIES, WIDTH, PLACES, EXACT,
    )  # fmt: skip
    first = (row * HEADS + head) * count
    at = tl.load(index + first + query, mask=real, other=0)
    prompt = tl.load(of_prompts + at[:, None] * WIDTH + inner[None, :])
    share = tl.sigmoid(tl.load(prompt_sums + at) - own_sum)
    whole = own + share[:, None] * (prompt - own)
    into = output + (first + query)[:, None] * WIDTH + inner[None, :]
    tl.store(into, whole.to(output.dtype.element_ty), mask=real[:, None])


def attend(
    vectors: Tensor,
    queries: Tensor,
    answers: tuple[Tensor, Tensor],
    places: Tensor,
    prompts: tuple[Tensor, Tensor],
    lengths: Tensor,
    layout: Layout,
    output: Tensor,
) -> None:
    """What queries [R, key heads, shared, width] give over prompts and answers, to `output`.

    `vectors` [R * all heads, width] are those that the queries are of, and `layout` says how they
    sit in tiles. `answers` [R, key heads, T, width] are seen up to place `places` [R], `prompts`
    [tiles, key heads, P, width] up to their `lengths` [tiles].
    """
    rows, heads, shared, width = queries.shape
    tiles, _, seats = layout.shape
    found = torch.empty(tiles, heads, seats, width, device=queries.device)
    sums = torch.empty(tiles, heads, seats, device=queries.device)
    sizes = {"HEADS": heads, "WIDTH": width, "PLACES": PLACES}
    sizes["EXACT"] = queries.dtype == torch.float32
    scale = width**-0.5
    # Triton launches on the thread's current device, wherever the tensors are.
    with torch.cuda.device_of(queries):
        keys, values = prompts
        _over_prompts[(tiles * heads,)](
            vectors, layout.queries, keys, values, lengths, found, sums, scale, seats,
            *keys.stride()[:3], *values.stride()[:3], QUERIES=_room(seats), **sizes, **_HOW,
        )  # fmt: skip
        keys, values = answers
        _over_answers[(rows * heads,)](
            queries, keys, values, places, found, sums, layout.of_rows, output, scale, shared,
            queries.stride(0), *keys.stride()[:3], *values.stride()[:3], QUERIES=_room(shared),
            **sizes, **_HOW,
        )  # fmt: skip


def _room(queries: int) -> int:
    """The kernels' products want 16 at least, and powers of two."""
    return max(16, 1 << (queries - 1).bit_length())


def require(heads: int, key_heads: int, like: Tensor) -> None:
    """Raise whatever Triton raises where it cannot compile for vectors like this one [width], as
    without a C compiler, and `ArithmeticError` where what comes of it is wrong.

    Tried are the largest tile that a step may have, for which a card may have no room, and lengths
    that end within a block.
    """
    width, all_heads, device = len(like), heads + key_heads, like.device
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    vectors = drawn(SHARERS, all_heads, width)
    queries = vectors[:, :heads].view(SHARERS, key_heads, -1, width)
    of_prompts, of_answers = (
        (1, key_heads, 3 * PLACES, width),
        (SHARERS, key_heads, 2 * PLACES, width),
    )
    prompts = drawn(*of_prompts), drawn(*of_prompts)
    answers = drawn(*of_answers), drawn(*of_answers)
    lengths = torch.tensor([2 * PLACES + 5], device=device)
    places = torch.arange(SHARERS, device=device) * (PLACES // 4)
    layout = Layout([range(SHARERS)], SHARERS, heads, key_heads, all_heads, device)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    flat = vectors.view(-1, width)
    attend(flat, queries, answers, places, prompts, lengths, layout, output)

    keys, values = (
        torch.cat([prompt.expand(SHARERS, -1, -1, -1), answer], dim=2).float()
        for prompt, answer in zip(prompts, answers, strict=True)
    )
    before, own = (torch.arange(one[0].shape[2], device=device) for one in (prompts, answers))
    seen = torch.cat([(before < lengths).expand(SHARERS, -1), own <= places[:, None]], dim=1)
    scores = queries.float() @ keys.transpose(2, 3) * width**-0.5
    expected = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1) @ values
    # In bfloat16 it is below 0.01; NaN is never below.
    if not (output.float() - expected).abs().max() < 0.05:
        raise ArithmeticError("what they compute is wrong")
