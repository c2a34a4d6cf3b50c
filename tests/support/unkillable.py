"""Processes that SIGKILL does not end, made for real.

``traced`` needs no rights: a tracer that asked for PTRACE_O_TRACEEXIT holds a process at
its exit, in state t, until the tracer is gone; ptrace(2). ``frozen`` needs root and a
cgroup v1 freezer: SIGKILL stays pending on a process in state D until it is thawed;
Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FREEZER = Path("/sys/fs/cgroup/freezer")
TRACER = """
import ctypes, sys
seize, trace_exit = 0x4206, 0x40
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(ptrace(seize, int(sys.argv[1]), None, trace_exit), ctypes.get_errno(), flush=True)
sys.stdin.read()
"""


def can_freeze() -> bool:
    """Whether this host lets us freeze a process so that SIGKILL waits."""
    return os.geteuid() == 0 and os.access(FREEZER / "cgroup.procs", os.W_OK)


@contextlib.contextmanager
def traced(pid: int) -> Iterator[None]:
    """Hold a process at its exit as long as the context lasts."""
    tracer = subprocess.Popen(
        [sys.executable, "-IS", "-c", TRACER, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert tracer.stdout.readline() == "0 0\n"
        yield
    finally:
        tracer.communicate()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Keep a process frozen as long as the context lasts."""
    group = FREEZER / f"ascend-v4-test-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        while (group / "cgroup.procs").read_text():
            time.sleep(0.02)
        group.rmdir()
