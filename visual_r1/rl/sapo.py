"""Soft adaptive policy optimisation (SAPO, Gao et al. 2025, arXiv:2511.20347).

In place of a clip, a gate that closes smoothly as a token's ratio r = exp(logp - q) leaves 1:

    loss = -Σ f(r) A,    f(r) = 4/τ · σ(τ (r - 1)),    τ = τ_pos where A > 0, else τ_neg

The gradient by logp is -4 p (1 - p) · r A with p = σ(τ (r - 1)): at r = 1 that of importance
sampling, whatever τ is. A larger τ closes the gate sooner; the paper takes τ_neg = 1.05 and
τ_pos = 1, because a negative advantage raises the logits of all tokens that were not sampled. The
paper's mean over responses of their means is `algorithm.normalization = "sequence"`.

It is written as a loss of one's own (see `own_loss`), with nothing that a user's could not do.
"""

import tinker
import torch

# Beyond it the gate is shut to the last bit, and exp would overflow later.
MOST_LOG_RATIO = 20.0


def sapo(
    data: list[tinker.Datum],
    logprobs: list[torch.Tensor],
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a minibatch; logged is the mean gate 4 p (1 - p), which is 1 on policy."""
    losses: list[torch.Tensor] = []
    gates: list[torch.Tensor] = []
    for datum, logp in zip(data, logprobs, strict=True):
        inputs = {
            name: datum.loss_fn_inputs[name].to_torch().to(logp.dtype)
            for name in ("logprobs", "advantages", "mask")
        }
        advantages = inputs["advantages"]
        # Where A is 0 a token adds nothing, whatever q is there.
        difference = torch.where(advantages != 0, logp - inputs["logprobs"], 0.0)
        ratio = difference.clamp(max=MOST_LOG_RATIO).exp()
        tau = torch.full_like(advantages, tau_neg).masked_fill(advantages > 0, tau_pos)
        p = torch.sigmoid(tau * (ratio - 1))
        losses.append(-(4 / tau * p * advantages).sum())
        gates.append((4 * p * (1 - p)).detach()[inputs["mask"] != 0])
    return torch.stack(losses).sum(), {"gate_mean": float(torch.cat(gates).mean())}
