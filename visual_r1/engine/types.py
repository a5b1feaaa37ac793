"""What the protocol side hands to the compute side, and gets back: plain values, no torch.

A `Prompt` is a tuple of text and image parts. Where image features go is decided by the parts
alone, never by token ids: an image token's id inside a `TextPart` (a policy may sample one) is an
ordinary token. A model input of several images and texts has one position per text token and one
per token that the model makes of each image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Literal, TypeAlias

import numpy as np

from visual_r1.errors import VisualR1Error

StopReason: TypeAlias = Literal["stop", "length"]
"""`stop`: a stop token or stop string completed the answer; `length`: `max_tokens` were used."""

TopkRow: TypeAlias = tuple[tuple[int, float], ...]
"""The k likeliest tokens at one position as (token id, log-probability), likeliest first."""


MAX_RANK = 512

SECOND_MOMENT = "adam.second_moment."
STEPS = "adam.steps"
"""Names in a training state: what stands before that of a weight, and Adam's count of steps."""


class InvalidRequest(VisualR1Error):
    """A request is wrong by itself: the client must change it, sending it again will not help."""


@dataclass(frozen=True)
class TextPart:
    """Token ids of a stretch of text."""

    tokens: Sequence[int]


@dataclass(frozen=True)
class ImagePart:
    """An encoded image (PNG or JPEG) and the number of tokens that the client expects it to take.

    `expected_tokens` None means "count it for me"; a wrong count is refused with both counts.
    """

    data: bytes
    expected_tokens: int | None = None


Prompt: TypeAlias = tuple[TextPart | ImagePart, ...]


@dataclass(frozen=True)
class Span:
    """So many places of a datum that are those of a sequence from `offset` on.

    Of its sampled tokens where `sampled`, else of the prompt that it was sampled from.
    """

    sequence_id: str
    sampled: bool
    offset: int
    length: int


@dataclass(frozen=True)
class Provenance:
    """Which sequences a datum was made of: runs of its model input, and of its targets."""

    read: tuple[Span, ...]
    targets: tuple[Span, ...]


@dataclass(frozen=True)
class Datum:
    """One training example: a model input of T positions, image tokens included.

    `inputs["target_tokens"]` is int64 [T], already shifted by one (or [T, K] for cross_entropy on
    K weighted targets a position); `weights`, `logprobs`, `advantages`, `sequence_ratio_mask` are
    float32 of the same shape.
    """

    prompt: Prompt
    inputs: Mapping[str, np.ndarray]
    provenance: Provenance | None = None


@dataclass(frozen=True)
class LoraSpec:
    """Which low-rank adapter: its rank, what it is put on, and the seed of its initial values."""

    rank: int
    seed: int | None = None
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True


def check_spec(spec: LoraSpec) -> None:
    """Raises `InvalidRequest` when it trains nothing, or at a rank that is not served."""
    if not (spec.train_attn or spec.train_mlp or spec.train_unembed):
        raise InvalidRequest(
            "train_attn, train_mlp and train_unembed are all off, so there is nothing to train; "
            "turn one on."
        )
    if not 1 <= spec.rank <= MAX_RANK:
        raise InvalidRequest(f"LoRA rank {spec.rank} is out of range: 1 to {MAX_RANK} are served.")


@dataclass(frozen=True)
class AdamSettings:
    """One optimizer step. `weight_decay` is decoupled (AdamW); `grad_clip_norm` 0 is off."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw tokens. `temperature` 0 is greedy; `top_k` -1 or 0 and `top_p` 1 are off.

    `max_tokens` None goes on until the context is full. `seed` None draws from fresh entropy.
    Sample j of a request has its own stream, a function of (seed, j) alone. An answer ends at the
    model's own end tokens unless `stop_at_eos` is off (the SDK's `stop=[]`), at any of
    `stop_tokens`, and with the token that completes one of `stop_strings`.
    """

    max_tokens: int | None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    stop_tokens: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    stop_at_eos: bool = True


@dataclass(frozen=True)
class TargetTokens:
    """Tokens to score in places of a prompt of `positions` + 1 tokens.

    `ids` int64 [n] are scored at the prompt's tokens `rows` + 1, rows int64 [n] from 0.
    """

    positions: int
    rows: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class SampleRequest:
    """A prompt to be answered `num_samples` times, and what to report of the prompt itself.

    With `num_samples` 0 only the prompt is scored. `prompt_alt_tokens` tokens are drawn at the
    settings' temperature, uncut by top_p and top_k, in place of each prompt token but the first.
    """

    prompt: Prompt
    settings: SamplingSettings
    num_samples: int = 1
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_tokens: TargetTokens | None = None
    prompt_alt_tokens: int = 0
    abandoned: Event = field(default_factory=Event, compare=False, repr=False)
    """Set once nobody wants the answers any more: then they may end where they are."""

    @property
    def scores_prompt(self) -> bool:
        """Whether something of the prompt itself is wanted."""
        return (
            self.prompt_logprobs
            or self.topk_prompt_logprobs > 0
            or self.target_tokens is not None
            or self.prompt_alt_tokens > 0
        )


@dataclass(frozen=True)
class SampledSequence:
    """One answer. The token that ended it, by id or by completing a stop string, is included.

    `logprobs` are those of the model itself at temperature 1 over the whole vocabulary, whatever
    temperature, top_p and top_k shaped the draw: the number that the learner computes for the
    token, so an importance ratio of unchanged weights is 1. `topk` has a row a token where asked
    for.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    topk: tuple[TopkRow, ...] | None = None


@dataclass(frozen=True)
class PromptAltTokens:
    """k draws in place of each of P - 1 prompt tokens: int64 [P - 1, k], float32 [P - 1, k]."""

    tokens: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True)
class SampleOutput:
    """The answers to one request; prompt log-probabilities start with None (nothing precedes)."""

    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: tuple[float | None, ...] | None = None
    topk_prompt_logprobs: tuple[TopkRow | None, ...] | None = None
    target_logprobs: np.ndarray | None = None
    """float32 [n] of the request's target tokens."""
    prompt_alt_tokens: PromptAltTokens | None = None


@dataclass(frozen=True)
class ForwardOutput:
    """Per datum the log-probabilities of its target tokens, float32 of the targets' shape.

    `metrics` has keys of the form `name:reduction`; `loss:sum` is the loss over all data, and each
    reduction says how a client joins the metrics of several chunks.
    """

    logprobs: tuple[np.ndarray, ...]
    metrics: dict[str, float]
