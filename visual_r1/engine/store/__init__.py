"""What the engine keeps on its disk."""
