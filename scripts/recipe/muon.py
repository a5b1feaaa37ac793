"""Muon for matrices, AdamW for the rest, with one schedule."""

from collections.abc import Iterable

import torch

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """The nearest matrix with all singular values near 1 (Jordan et al., 2024)."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon:
    """Momentum with Nesterov, made orthogonal; steps are scaled by sqrt(max(1, rows / columns))."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], momentum: float = 0.95) -> None:
        self.parameters = list(parameters)
        self.momentum = momentum
        self.velocity = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            velocity.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(velocity, self.momentum).flatten(1)
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            parameter.sub_(orthogonal(update).view_as(parameter), alpha=learning_rate * scale)


class Optimizer:
    """Muon on the matrices of a model, AdamW on embeddings, biases and norms."""

    def __init__(self, model: torch.nn.Module) -> None:
        matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embed" not in n]
        rest = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
        matrices += [
            p for n, p in model.named_parameters() if n.endswith("patch_embed.proj.weight")
        ]
        rest = [p for p in rest if all(p is not m for m in matrices)]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.parameters = matrices + rest

    def step(self, muon_rate: float, adam_rate: float) -> None:
        """Apply the gradients, clipped to a norm of 1, and clear them."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = adam_rate
        self.muon.step(muon_rate)
        self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None
