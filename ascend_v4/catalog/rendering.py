"""The tables that only renderers read: metrics, alerts, panels, schedulers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .load import Catalog, read_compiled

__all__ = ["COMPILED", "rendering_catalog"]

COMPILED = Path(__file__).with_name("rendering.json")


@lru_cache(maxsize=1)
def rendering_catalog() -> Catalog:
    """Return the tables of ``schema_rendering``; errors as ``read_compiled``."""
    return read_compiled(COMPILED)
