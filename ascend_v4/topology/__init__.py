"""A deployment over several nodes: its file, its checks, its plan for each node."""
