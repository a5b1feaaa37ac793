"""What a supervised step leaves behind: a row of metrics.jsonl, see docs/sft.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from visual_r1.prices import Tokens
from visual_r1.rl.metrics import JsonNumber, RowPart


@dataclass(frozen=True, slots=True)
class SupervisedMetrics:
    """One step. Losses are nats a response token: `response_loss` of the first minibatch before the
    update, `held_out_loss` of the validation problems behind it, at a checkpoint.

    `response_tokens` [D] are the lengths of the responses that were learnt, `refused` counts the
    problems of the batch of which no prompt could be made, `tokens` are what was billed.
    """

    step: int
    updated: bool
    response_loss: float | None
    held_out_loss: float | None
    held_out_loss_before: float | None
    grad_norm: float | None
    learning_rate: float
    optimizer_steps: int
    datums: int
    refused: int
    response_tokens: Sequence[int]
    prompt_tokens: int
    tokens: Tokens
    cost_usd: float | None
    seconds: RowPart

    def shown(self) -> Mapping[str, float | None]:
        """What the progress bar says of it."""
        return {"loss": self.response_loss, "held_out_loss": self.held_out_loss}

    def row(self) -> dict[str, JsonNumber]:
        """The step as a flat row of metrics.jsonl; what it does not have is left out."""
        lengths = self.response_tokens
        held_out: dict[str, JsonNumber] = {
            name: value
            for name, value in (
                ("held_out_loss_before", self.held_out_loss_before),
                ("held_out_loss", self.held_out_loss),
            )
            if value is not None
        }
        return {
            "step": self.step,
            "updated": self.updated,
            "response_loss": self.response_loss,
            **held_out,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "optimizer_steps": self.optimizer_steps,
            "datums": self.datums,
            "refused": self.refused,
            "response_tokens_mean": fmean(lengths) if lengths else None,
            "response_tokens_max": max(lengths, default=None),
            "prompt_tokens": self.prompt_tokens,
            "tokens_prefill": self.tokens.prefill,
            "tokens_sampled": self.tokens.sample,
            "tokens_trained": self.tokens.train,
            "cost_usd": self.cost_usd,
            **self.seconds,
        }


@dataclass(frozen=True, slots=True)
class SupervisedResult:
    """A step that is done; it has no rollouts."""

    metrics: SupervisedMetrics
