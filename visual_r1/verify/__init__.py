"""`visual-r1 verify`: whether a run, a dataset or an engine's home is as it was written."""
