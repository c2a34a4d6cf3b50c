"""Reading the user's own files, with errors that name the option they came from."""

from __future__ import annotations

from pathlib import Path

from .errors import AscendV4Error, ExitCode

__all__ = ["read_user_text"]


def read_user_text(path: str, option: str) -> str:
    """Return the text of a file that the user named.

    Raises AscendV4Error (usage) naming the option when it can't be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise AscendV4Error(
            ExitCode.USAGE,
            "unreadable-file",
            f"{option}: {path} can't be read: {reason}",
            f"ls -l {path}",
        ) from error
