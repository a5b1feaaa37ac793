"""A run in a notebook: its files as pandas frames, its figures as objects that show themselves."""

from visual_r1.notebook.opened import OpenedRun, open_folder

__all__ = ["OpenedRun", "open_folder"]
