"""The edge: the only package that touches subprocesses, the environment, sockets and /proc."""
