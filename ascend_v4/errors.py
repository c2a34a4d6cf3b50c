"""The one error type every part raises, and the exit codes they share.

Each error names its cause and the next command to type; the command line prints
both and exits with the error's code. Nothing here imports anything heavy.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["AscendV4Error", "ExitCode"]


class ExitCode(IntEnum):
    """Exit codes of every command. Restarting never helps for 2 to 7 and 11 to 16."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    REFUSED = 3
    WEIGHTS_INCOMPLETE = 4
    DOES_NOT_FIT = 5
    HOST_NOT_READY = 6
    BUSY = 7
    NOT_READY_IN_TIME = 8
    ENGINE_DIED = 9
    HUNG = 10
    WRONG_ANSWERS = 11
    NOT_CLEANED_UP = 12
    WEIGHTS_CORRUPT = 13
    WEIGHTS_WRONG_KIND = 14
    WEIGHTS_UNVERIFIABLE = 15
    UNSURE = 16
    UNREACHABLE = 17
    NOTHING_RECOGNISED = 18


class AscendV4Error(Exception):
    """A failure with a cause, an exit code and the next command to type.

    ``kind`` is a short stable word for scripts (``unknown-release``), ``message``
    one sentence for people, ``next`` a command or instruction, ``""`` if none.
    """

    def __init__(self, code: ExitCode, kind: str, message: str, next: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message
        self.next = next

    def to_json(self) -> dict[str, object]:
        """Return the error object that ``--json`` prints on stderr."""
        return {
            "error": {
                "code": int(self.code),
                "kind": self.kind,
                "message": self.message,
                "next": self.next,
            }
        }
