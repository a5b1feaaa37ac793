"""A run: its folder and files, the chunk, and what is done with a run besides training it."""
