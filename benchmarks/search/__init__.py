"""Searching beside the published procedure: `python -m benchmarks.search --help`."""
