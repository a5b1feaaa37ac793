"""Which weights are the current ones: what was promoted, for what evidence, and what was before."""
