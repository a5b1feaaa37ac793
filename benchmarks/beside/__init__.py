"""What the benchmarks beside other projects are made of: environments, rounds, work, floors."""
