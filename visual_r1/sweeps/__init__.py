"""Sweeps: many runs that differ in named settings, compared as one experiment."""
