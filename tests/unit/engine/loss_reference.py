"""Tinker's losses and their derivatives in float64 NumPy, written from the documentation."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CASES = [
    ("cross_entropy", {}),
    ("importance_sampling", {}),
    ("ppo", {}),
    ("ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 1.05}),
    ("cispo", {}),
    ("cispo", {"clip_low_threshold": 0.3, "clip_high_threshold": 1.5}),
    ("dro", {}),
    ("dro", {"beta": 0.7}),
    ("gspo", {}),
    ("gspo", {"clip_low_threshold": 0.01, "clip_high_threshold": 50.0}),
]


def reference(
    name: str, config: dict[str, float], logp: Array, inputs: dict[str, Array]
) -> tuple[float, Array]:
    """The loss, and its derivative by logp, from the formulas in Tinker's documentation."""
    if name == "cross_entropy":
        return float(-(inputs["weights"] * logp).sum()), -inputs["weights"]
    q, advantages = inputs["logprobs"], inputs["advantages"]
    r = np.exp(logp - q)
    if name == "importance_sampling":
        return float(-(r * advantages).sum()), -r * advantages
    if name == "dro":
        beta = config.get("beta", 0.05)
        value = -(logp * advantages - 0.5 * beta * (logp - q) ** 2).sum()
        return float(value), -advantages + beta * (logp - q)
    if name == "gspo":
        # Every token has the value of s, and the slope that its own ratio has at 1.
        marked = inputs["sequence_ratio_mask"] != 0
        r = np.full_like(logp, np.exp((logp - q)[marked].mean()))
    default = {"ppo": (0.8, 1.2), "cispo": (0.0, 4.0), "gspo": (0.9997, 1.0004)}[name]
    low = config.get("clip_low_threshold", default[0])
    high = config.get("clip_high_threshold", default[1])
    clipped = np.clip(r, low, high)
    if name == "cispo":
        return float(-(clipped * logp * advantages).sum()), -clipped * advantages
    plain, cut = r * advantages, clipped * advantages
    inside = (r >= low) & (r <= high)
    slope = np.where(plain < cut, r, np.where(inside, r, 0.0))
    return float(-np.minimum(plain, cut).sum()), -slope * advantages
