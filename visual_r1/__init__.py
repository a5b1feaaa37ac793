"""Visual R1: GRPO for vision-language models that reason about diagrams, through the Tinker API."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visual_r1.notebook import OpenedRun

__version__ = "0.1.0"
__all__ = ["__version__", "open_run"]


def open_run(folder: "str | Path") -> "OpenedRun":
    """A run to look at in a notebook: its files as pandas frames, its figures; docs/notebook.md.

    `folder` is the run's, or its name under runs/. Raises `RunError` where there is none.
    """
    # Here and not above: whatever is imported of this package imports this file first.
    from visual_r1.notebook import open_folder

    return open_folder(folder)
