"""What `benchmarks/damage.py` is made of: small runs, what damages them, and who notices."""
