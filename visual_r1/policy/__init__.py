"""A policy and the ways of asking it."""
