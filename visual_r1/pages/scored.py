"""A response token by token, as it was scored: what `scoring` writes and the page shows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from visual_r1.storage import read_json, write_json

HIDDEN: Final = "masked"
"""How the picture is hidden: most of its patches are black, see `prompts.Prompter.model_input`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which response: a sample of a step, or the greedy answer to a problem in an evaluation.

    `text` is the response without its stop token, `stopped` whether it had one, `tokens` how many
    tokens were sampled, the stop token among them.
    """

    run: str
    problem: str
    text: str
    stopped: bool
    tokens: int
    split: str
    step: int | None = None
    group: int | None = None
    sample: int | None = None
    evaluation: str | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Some weights of the run: in words, by their path (None is the base model), and after how many
    steps, where they are a checkpoint's."""

    says: str
    path: str | None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its log-probabilities in nats, at temperature 1.

    `wrote` is by the weights that wrote it, or the nearest checkpoint before; `other` by the other
    weights, None where there are none; `unseen` by the former without the picture.
    """

    text: str
    wrote: float
    other: float | None
    unseen: float | None


@dataclass(frozen=True, slots=True)
class Scored:
    """All that was asked of the server; `newer` says whether `other` are the newer weights."""

    wanted: Wanted
    wrote: Weights
    other: Weights | None
    newer: bool
    hidden: str
    tokens: tuple[Token, ...]
    prompt_tokens: int
    asked_tokens: int
    at: str

    @property
    def same_tokens(self) -> bool:
        """Whether the text has as many tokens as were sampled: else it was spelled another way."""
        return len(self.tokens) == self.wanted.tokens


_WANTED, _SCORED = TypeAdapter(Wanted), TypeAdapter(Scored)


def read_wanted(text: str) -> Wanted:
    """As it stands on a command line."""
    return _WANTED.validate_json(text)


def read_scored(path: Path) -> Scored | None:
    """What is kept; None where nothing is, or it is damaged: then it is asked anew."""
    try:
        return read_json(path, _SCORED)
    except (OSError, ValueError):
        return None


def keep_scored(path: Path, scored: Scored) -> None:
    """Keep it, whole or not at all; raises `StorageError`."""
    write_json(path, asdict(scored))
