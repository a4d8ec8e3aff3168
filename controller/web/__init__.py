"""The page that people answer on: a client of the label store, and nothing else."""
