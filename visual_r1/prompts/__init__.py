"""Prompts: templates, and a problem as the model reads it."""
