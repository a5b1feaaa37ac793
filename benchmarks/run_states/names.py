"""Digest, run name and identity of configurations, by whichever code PYTHONPATH names; as JSON."""

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
    found = {text: [one.digest(), one.run_name, one.identity()] for text, one in configs.items()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
