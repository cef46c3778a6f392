"""Training data: where samples lie, and batches of them for each rank."""
