"""The rehearsal checkpoint: constructed weights that real vLLM serves on a CPU.

Standard library only: it is built by the command line itself, without torch,
transformers or numpy.
"""
