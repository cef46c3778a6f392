"""A model becomes scores: data sets, the zero-shot classifier, metrics."""
