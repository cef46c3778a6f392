"""Training beside open_clip's trainer: `python -m benchmarks.train --help`."""
