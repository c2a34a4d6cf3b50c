"""The tables that only ``doctor`` and ``diagnose`` read, apart so that nothing else loads them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode

from .load import Catalog

__all__ = ["COMPILED", "diagnosis_catalog"]

COMPILED = Path(__file__).with_name("diagnosis.json")


@lru_cache(maxsize=1)
def diagnosis_catalog() -> Catalog:
    """Return signatures, error codes, host checks and advice.

    Raises AscendV4Error (a fault of ours) when the file is missing or damaged.
    """
    try:
        return Catalog(json.loads(COMPILED.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise AscendV4Error(
            ExitCode.FAULT,
            "catalog-missing",
            f"the compiled tables of doctor and diagnose can't be read: {error}",
            "python -m ascend_v4.catalog.build",
        ) from error
