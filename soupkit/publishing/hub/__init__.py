"""The Hub: the model card, the repository and the push."""
