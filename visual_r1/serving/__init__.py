"""Serving: a checkpoint on any Tinker server, behind OpenAI's chat completions."""
