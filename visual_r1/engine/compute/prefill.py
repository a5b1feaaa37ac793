"""Prompts through the model, once each: what decoding starts from, and the prompts' own scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visual_r1.engine.compute.base_model import BaseModel
from visual_r1.engine.compute.batching import ROWS, chunks, floats, of_array, round_up, split
from visual_r1.engine.compute.cache import PromptCache, PromptReader
from visual_r1.engine.compute.forward import Features, logit_rows, prompt_states
from visual_r1.engine.compute.sample_plan import SamplePlan
from visual_r1.engine.compute.sampling import alternative_tokens, likeliest, stream
from visual_r1.engine.types import PromptAltTokens, TopkRow

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
"""Padded tokens in one pass, by kind of device."""

_ALTERNATIVES = 2**62
"""The stream of alternative tokens: no sample has this number."""


@dataclass(frozen=True)
class PromptScores:
    """What was asked for, of a prompt of P tokens; the first has no log-probability."""

    logprobs: tuple[float | None, ...] | None
    topk: tuple[TopkRow | None, ...] | None
    targets: np.ndarray | None
    """float32 [n], of the n target tokens."""
    alternatives: PromptAltTokens | None
    """[P - 1, k] each."""


@dataclass(frozen=True)
class Prefill:
    """B prompts of one bucket, ready to be continued."""

    cache: PromptCache
    lengths: Tensor
    """int64 [B], without the padding."""
    logits: Tensor
    """float32 [B, V], of each prompt's first new token."""
    scores: list[PromptScores | None]


def prefill(
    base: BaseModel,
    plans: Sequence[SamplePlan],
    features: Features,
    length: int,
    reader: PromptReader | None = None,
) -> Prefill:
    """Run prompts of one bucket, each padded to `length`; see `prompt_states` for `reader`."""
    caches: list[PromptCache] = []
    last: list[Tensor] = []
    scores: list[PromptScores | None] = []
    for batch in chunks(plans, TOKENS_AT_ONCE[base.device.type] // length):
        layouts = [plan.layout for plan in batch]
        hidden, cache = prompt_states(base, layouts, features, length, reader)
        caches.append(cache)
        for row, plan in enumerate(batch):
            # The prompt's last place foretells the first new token; behind it is padding.
            last.append(hidden[row, plan.layout.length - 1])
            wanted = plan.request.scores_prompt
            scores.append(score_prompt(base, plan, hidden[row]) if wanted else None)
    # Dummies up to a multiple of 16 rows: see `batching`.
    rows = torch.stack(last)
    padded = torch.cat([rows, rows[:1].expand(round_up(len(rows), ROWS) - len(rows), -1)])
    return Prefill(
        cache=PromptCache.joined(caches),
        lengths=torch.tensor([plan.layout.length for plan in plans], device=base.device),
        logits=base.unembed(padded)[: len(rows)],
        scores=scores,
    )


def score_prompt(base: BaseModel, plan: SamplePlan, hidden: Tensor) -> PromptScores:
    """Score a prompt by its hidden states [P, width], padding included.

    Row i tells of token i + 1: of the prompt's own, of the likeliest, and of others in its place.
    """
    request, last = plan.request, plan.layout.length - 1
    own = torch.zeros(len(hidden), 1, dtype=torch.long)
    own[:last, 0] = of_array(plan.layout.tokens[1:])
    own = own.to(base.device)
    wanted, k = request.target_tokens, request.prompt_alt_tokens
    uniforms = of_array(stream(plan.seed, _ALTERNATIVES).random((len(hidden), k))).to(base.device)

    logprobs: list[float] = []
    topk: list[TopkRow] = []
    targets = np.zeros(0 if wanted is None else len(wanted.ids), np.float32)
    alternatives: list[Tensor] = []
    alternative_logprobs: list[Tensor] = []
    start = 0
    for rows in split(hidden, logit_rows(base)):
        end = start + len(rows)
        logits = base.unembed(rows)
        logp = torch.log_softmax(logits, dim=-1)
        logprobs += floats(logp.gather(-1, own[start:end])[:, 0])
        if request.topk_prompt_logprobs > 0:
            topk += likeliest(logp, request.topk_prompt_logprobs)
        if wanted is not None:
            here = (wanted.rows >= start) & (wanted.rows < end)
            places = of_array(wanted.rows[here] - start).to(base.device)
            ids = of_array(wanted.ids[here]).to(base.device)
            targets[here] = _numbers(logp[places, ids])
        if k > 0:
            chosen = alternative_tokens(logits, plan.settings.temperature, uniforms[start:end])
            alternatives.append(chosen)
            alternative_logprobs.append(logp.gather(-1, chosen))
        start = end
    return PromptScores(
        logprobs=(None, *logprobs[:last]) if request.prompt_logprobs else None,
        topk=(None, *topk[:last]) if request.topk_prompt_logprobs > 0 else None,
        targets=None if wanted is None else targets,
        alternatives=PromptAltTokens(
            _numbers(torch.cat(alternatives)[:last]),
            _numbers(torch.cat(alternative_logprobs)[:last]),
        )
        if k > 0
        else None,
    )


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()  # pyright: ignore[reportUnknownMemberType]
