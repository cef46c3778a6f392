"""A recipe as a whole: its sections composed, ordered, reckoned and run."""
