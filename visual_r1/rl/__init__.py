"""GRPO: rollouts, advantages, datums, the step, the chunk."""
