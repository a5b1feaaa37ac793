"""What `benchmarks/kills.py` is made of: programs, the lives they lead, moments to kill them at."""
