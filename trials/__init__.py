"""What the tests try in small and the benchmarks at length: programs, faults, outcomes."""
