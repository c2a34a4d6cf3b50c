"""The optional cgroup: in a delegated tree it is made, used and removed; else never touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ascend_v4.run import cgroup
from tests.run.test_members import RUNNER, sh
from tests.support.fake_tree_run import ROOT, until


def test_nothing_is_made_where_nothing_was_delegated(tmp_path):
    assert not cgroup.delegated(str(tmp_path / "none"))
    assert cgroup.make("run", "member") == "" or os.geteuid() != 0
    cgroup.enter("")
    cgroup.kill("")
    cgroup.remove("")


@pytest.fixture
def delegated():
    """A cgroup of our own, marked as systemd marks what it delegates; root only."""
    base = Path(cgroup.own_directory() or "/none") / f"ascend-v4-test-{os.getpid()}"
    try:
        base.mkdir()
        os.setxattr(base, "trusted.delegate", b"1")
    except OSError:
        pytest.skip("no cgroup v2 that this user may write")
    if not (base / "cgroup.kill").exists():
        base.rmdir()
        pytest.skip("this kernel has no cgroup.kill")
    yield base
    for path in base.glob("*/"):
        until(lambda path=path: (path / "cgroup.procs").read_text() == "", 10)
        path.rmdir()
    until(lambda: (base / "cgroup.procs").read_text() == "", 10)
    base.rmdir()


def test_member_lives_and_dies_in_its_cgroup(delegated, tmp_path):
    stubborn = "trap '' TERM; (trap '' TERM; setsid sleep 600 &) ; while :; do sleep 1; done"
    asked = {
        "directory": str(tmp_path / "20260101-000000-c0de"),
        "members": [sh(stubborn, "server")],
        "drain_s": 0,
    }
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'echo $$ > {delegated}/cgroup.procs; exec "$@"', "sh",
         sys.executable, "-c", RUNNER, json.dumps(asked)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    group = delegated / "ascend-v4-20260101-000000-c0de-server"
    until(lambda: len((group / "cgroup.procs").read_text().split()) >= 3)
    began = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    until(lambda: not group.exists(), 5.0)
    assert time.monotonic() - began < 5.0
