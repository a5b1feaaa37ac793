"""The engine's server: HTTP, and the order in which requests are worked on."""
