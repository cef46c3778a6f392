"""How checkpoints lie on disk: each way of writing one, and how it is recognised and read."""
