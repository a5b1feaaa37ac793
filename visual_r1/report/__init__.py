"""What a person sees of a run: summary, page, terminal, W&B."""
