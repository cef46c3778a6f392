"""Scoring beside open_clip and clip-benchmark: `python -m benchmarks.evaluate --help`."""
