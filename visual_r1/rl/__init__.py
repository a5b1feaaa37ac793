"""GRPO: batches, sampling, advantages, learning, and the loop that they make up."""
