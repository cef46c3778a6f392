"""Whether the trainer makes ingredients of good soups: `python -m benchmarks.soups --help`."""
