"""The tables that only ``doctor`` and ``diagnose`` read, apart so that nothing else loads them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .load import Catalog, read_compiled

__all__ = ["COMPILED", "diagnosis_catalog"]

COMPILED = Path(__file__).with_name("diagnosis.json")


@lru_cache(maxsize=1)
def diagnosis_catalog() -> Catalog:
    """Return signatures, error codes, host checks and advice; errors as ``read_compiled``."""
    return read_compiled(COMPILED)
