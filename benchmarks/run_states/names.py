"""Digest, run name and identity of configurations, by whichever code PYTHONPATH names; as JSON.

Evaluation was a part of them once. Where it is none, what counts is the digest that old ledgers
hold and the name that an old run is found under.
"""

import json
import sys
from typing import Any

from visual_r1.config import RunConfig

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    *({"preset": name} for name in ("seed", "quickstart", "geometry3k", "vision_sr1")),
    {"preset": "seed", "train": {"loss": "ppo", "clip_epsilon": 0.3}},
    {"preset": "quickstart", "train": {"steps": 5}, "validation": {"every": 1}},
    {"preset": "quickstart", "run": {"name": "mine"}, "train": {"seed": 7}},
    {"preset": "quickstart", "curriculum": {"rule": "contrast"}},
    {"preset": "quickstart", "algorithm": {"advantage": "gdpo", "loss_config": {"beta": 0.1}}},
    {"preset": "geometry3k", "data": {"columns": {"images": ["left", "right"]}, "train": 10}},
    {"preset": "geometry3k", "backend": {"base_url": "https://tinker.example", "threads": 3}},
    {"preset": "vision_sr1", "penalty": {"length_buffer": 0.5}, "optimizer": {"beta2": 0.99}},
    {"preset": "vision_sr1", "reward": {"custom": "mine:paid"}, "alarms": {"window": 5}},
)


def main() -> None:
    """Print them, by the configuration as text."""
    configs = {json.dumps(one): RunConfig.model_validate(one) for one in CONFIGURATIONS}
    json.dump({text: told(config) for text, config in configs.items()}, sys.stdout)


def told(config: RunConfig) -> list[Any]:
    """Digest, name and identity, by the older rule."""
    if not hasattr(config, "older_digest"):
        return [config.digest(), config.run_name, config.identity()]
    digest = config.older_digest()
    name = config.run.name or f"{config.preset}-{digest}"
    return [digest, name, config.older_identity()]


if __name__ == "__main__":
    main()
