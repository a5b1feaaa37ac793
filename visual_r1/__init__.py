"""Visual R1: GRPO for vision-language models that reason about diagrams, through the Tinker API."""

__version__ = "0.1.0"
