"""What `benchmarks/kills.py` is made of: the lives that programs lead, moments to kill them at."""
