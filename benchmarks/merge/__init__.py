"""Merging beside its peers and under it the floor: `python -m benchmarks.merge --help`."""
