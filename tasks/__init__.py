"""Prefect tasks: retries, cache keys and persisted results around what `visual_r1` does."""
