"""A Tinker server in use: where it is, sessions with it, and what is done when it fails."""
