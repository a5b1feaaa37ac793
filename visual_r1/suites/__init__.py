"""Named benchmarks: a TOML file each, with where its problems are and how others ask and report."""
