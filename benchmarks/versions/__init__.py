"""Two versions of soupkit, doing the same work in turns: `python -m benchmarks.versions --help`."""
