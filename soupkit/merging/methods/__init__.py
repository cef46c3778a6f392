"""The merge methods, by families: each is one function of tensors, the engine does the rest. Importing them needs no
torch."""
