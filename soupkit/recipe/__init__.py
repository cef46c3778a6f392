"""The top floor below the command line: a recipe as a whole, its sections composed, ordered and run."""
