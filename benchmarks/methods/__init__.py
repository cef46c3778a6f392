"""Which merge method is worth trying: `python -m benchmarks.methods --help`."""
