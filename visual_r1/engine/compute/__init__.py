"""The engine's computing: torch alone, no HTTP, and no disk once the model is loaded."""
