"""ascend-v4: from a bare host to a verified DeepSeek-V4 endpoint on Ascend NPUs."""

__version__ = "0.1.0"
