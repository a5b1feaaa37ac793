"""Prefect flows: the order of things, nothing else."""
