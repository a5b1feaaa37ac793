"""Data: sources, dataset folders, and the batches of each step."""
