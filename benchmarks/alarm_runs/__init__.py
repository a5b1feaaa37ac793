"""What `benchmarks/alarms.py` is made of: runs with and without a fault, and what alarms say."""
