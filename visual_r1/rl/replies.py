"""What the server replies to a minibatch, and whether a step may be kept after it."""

import math
from collections.abc import Iterable

import tinker

from visual_r1.config import RunConfig
from visual_r1.errors import BackendError, RunError
from visual_r1.rl.divergence import Floats


def learner_logprobs(output: tinker.ForwardBackwardOutput, datums: int) -> list[Floats]:
    """The learner's log-probabilities of each datum's T targets, float32 [T].

    Raises `BackendError` where they are not there for so many `datums`.
    """
    found = [one["logprobs"].to_numpy() for one in output.loss_fn_outputs if "logprobs" in one]
    if len(found) != datums:
        raise BackendError(
            f"The server returned log-probabilities for {len(found)} of {datums} datums: it does "
            "not speak the protocol that training needs."
        )
    return found


def largest_norm(replies: Iterable[tinker.OptimStepResponse]) -> float | None:
    """The largest gradient norm; None where the server tells none.

    One that is not a number counts as the largest, for `max` would pass over it.
    """
    norms = [
        value
        for reply in replies
        for name, value in (reply.metrics or {}).items()
        if "grad_norm" in name or "grad/norm" in name
    ]
    return max(norms, key=lambda one: one if math.isfinite(one) else math.inf, default=None)


def require_sound(
    config: RunConfig,
    step: int,
    *,
    loss: float,
    grad_norm: float | None,
    kl: float | None = None,
    staleness: int = 0,
) -> None:
    """Raise `RunError` where the update has broken the weights, or gone beyond `limits`.

    `kl` is that between sampler and learner, None where nothing was sampled, and `staleness` how
    many steps before this one the sampler's weights were made.
    """
    calmer = (
        "Set optimizer.grad_clip_norm or lower train.learning_rate under another --run.name, or "
        "raise the limit to go on from the last checkpoint."
    )
    another_policy = (
        "The server samples from another policy than it trains (another temperature, stale "
        "weights, a lower precision): mend that, or raise the limit to go on from the last "
        "checkpoint."
    )
    if staleness:
        another_policy = (
            f"It learns from samples of the weights of {staleness} steps before, and these have "
            "moved far since: lower train.learning_rate or algorithm.max_staleness under another "
            "--run.name, or raise the limit to go on from the last checkpoint."
        )
    limits = config.limits
    for name, value, most, setting, advice in (
        ("loss", loss, None, "", ""),
        ("gradient norm", grad_norm, limits.max_grad_norm, "limits.max_grad_norm", calmer),
        ("KL between sampler and learner", kl, limits.max_kl, "limits.max_kl", another_policy),
    ):
        if value is None:
            continue
        if not math.isfinite(value):
            raise RunError(
                f"The {name} of step {step} is {value}; the run stops before this step is saved. "
                "Lower train.learning_rate or set optimizer.grad_clip_norm under another "
                "--run.name; the checkpoints before it stay as they are."
            )
        if most is not None and value > most:
            raise RunError(
                f"The {name} of step {step} is {value:.4g}, over {setting} ({most:g}); the run "
                f"stops before this step is saved. {advice}"
            )
