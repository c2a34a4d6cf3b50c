"""Files that a user is meant to edit: told from what render wrote by a mark of their own.

The mark is a digest of the text that was rendered. So an edit shows, and so does whether an
edited file stands on the rendering that is about to be written.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

__all__ = ["MADE", "Decision", "decide", "marked"]

MADE = "Made by ascend-v4"
MARK = re.compile(r"^# Yours to edit: .* \(version ([0-9a-f]{12})\)\.\n", re.MULTILINE)
AGAIN = "; edit the topology and render again."
#: Write it, keep the user's as it is, or put the new one beside it.
Decision = Literal["write", "keep", "beside"]


def digest(text: str) -> str:
    """Return what tells one rendering from another, whichever release of ours made it."""
    told = [line for line in MARK.sub("", text).splitlines() if MADE not in line]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def marked(text: str) -> str:
    """Return a rendered text (``#`` comments) that says that it may be edited, with its mark."""
    before, made, rest = text.partition(MADE)
    line, _, rest = rest.partition("\n")
    says = "a new rendering goes beside a file that you edited, as FILE.new"
    return (
        f"{before}{made}{line.removesuffix(AGAIN)}.\n"
        f"# Yours to edit: {says} (version {digest(text)}).\n{rest}"
    )


def mark_of(text: str) -> str:
    """Return the mark in a text, ``""`` where it has none."""
    found = MARK.search(text)
    return found[1] if found else ""


def decide(there: str, new: str) -> Decision:
    """Return what to do with a file that is there and a new rendering of it.

    An edited file is kept. Its new version is worth a look only if it is not the one that
    was edited.
    """
    mark = mark_of(there)
    if there == new or (mark and mark == digest(there)):
        return "write"
    return "keep" if mark and mark == mark_of(new) else "beside"
