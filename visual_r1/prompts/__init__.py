"""Prompts: templates, and a problem as the model reads it."""

from visual_r1.prompts.prompts import ImageMode, Prompter
from visual_r1.prompts.templates import Template, load_template

__all__ = ["ImageMode", "Prompter", "Template", "load_template"]
