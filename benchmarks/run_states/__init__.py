"""What `benchmarks/old_runs.py` is made of: runs by the code of any commit, and what they left."""
