"""``--explain CODE``: what a code of CANN, HCCL or the driver means."""

from __future__ import annotations

import re

from ascend_v4.catalog.diagnosis import diagnosis_catalog
from ascend_v4.catalog.load import Row, nearest
from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["explain", "related"]


def explain(code: str) -> Row:
    """Return the row of a code, however it is written (``ei0006``, ``EI0006):``, a name).

    Raises AscendV4Error (nothing recognised) naming the nearest known one.
    """
    rows = diagnosis_catalog().table("error_codes")
    wanted = re.sub(r"[^A-Z0-9_-]", "", code.upper())
    for row in rows:
        names = (
            row["code"],
            row["name"].upper(),
            row["name"].upper().removeprefix("ACL_ERROR_RT_"),
        )
        if wanted in names:
            return row
    known = [row["code"] for row in rows]
    raise AscendV4Error(
        ExitCode.NOTHING_RECOGNISED,
        "unknown-code",
        f"'{code}' is not a code this catalog knows. {nearest(wanted, known)}".rstrip(),
        "grep the code in the plog (~/ascend/log/debug/plog) and give the log to "
        "ascend-v4 diagnose",
    )


def related(code: str) -> list[Row]:
    """Return the signatures whose lines carry a code."""
    rows = diagnosis_catalog().table("signatures")
    return [row for row in rows if code in str(row["match"])]
