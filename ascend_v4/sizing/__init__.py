"""Will it fit: KV blocks as the engines count them, weights, and the verdict.

``fit_check`` is what serve and doctor call; everything else is behind ``plan``.
Nothing here imports more than the standard library at module level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.core.finding import Finding

__all__ = ["fit_check"]


def fit_check(compiled: Compiled) -> list[Finding]:
    """Return what sizing has to say about a compiled launch; see :mod:`.check`."""
    from .check import fit_check as check

    return check(compiled)
