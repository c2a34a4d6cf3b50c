"""One short command of a run under a guardian, so that it never outlives the launcher."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ascend_v4.host.system import Completed

from .logs import Masker
from .member import Member

__all__ = ["guarded"]

#: Longest wait for a guardian's end once it was told to kill, in seconds.
KILLED_S = 15.0


def guarded(
    run_id: str,
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    secrets: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> Completed:
    """Run ``argv`` to its end and return what it wrote, stderr among stdout.

    ``argv[0]`` is a full path. Past ``timeout_s`` seconds, and whatever is raised
    meanwhile, every process of it is killed; when the launcher is killed the guardian
    does it. The lines are also in ``log``, secrets masked.
    """
    lines: list[str] = []
    member = Member(run_id, name, argv, env, log, Masker(secrets), sinks=(lines.append,))
    deadline = time.monotonic() + timeout_s
    try:
        while not member.over and time.monotonic() < deadline:
            member.wait_over(max(0.0, deadline - time.monotonic()))
        late = not member.over
    finally:
        if not member.over:
            member.kill()
            member.wait_over(KILLED_S)
    if late:
        return Completed(tuple(argv), -2, "", f"no answer within {timeout_s:g} s")
    status = member.exit_status if member.exit_status is not None else -1
    return Completed(tuple(argv), status, "\n".join(lines), lines[-1] if lines else "")
