"""A deployment over several nodes, run from one place."""
