"""The strategies of a search: which soup is tried next, and nothing else."""
