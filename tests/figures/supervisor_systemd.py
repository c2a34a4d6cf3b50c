"""systemd's watchdog on a run, with the real systemd, outside CI.

    python -m tests.figures.supervisor_systemd

Starts systemd as the first process of namespaces of its own (root, a hybrid cgroup tree;
nothing of the host's systemd is touched) with one unit: ``ascend-v4 serve`` on the fake
engine, ``Type=notify``, ``WatchdogSec=3``. Shows that it is left alone for nine seconds,
and that systemd ends it, with all its processes, when the launcher is stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.fake_tree_run import ROOT, Tree

CGROUPS = [Path("/sys/fs/cgroup") / name for name in ("systemd", "unified")]
SERVICE = """[Unit]
DefaultDependencies=no
[Service]
Type=notify
{environment}
ExecStart={command}
WorkingDirectory={root}
WatchdogSec=3
TimeoutAbortSec=3
KillMode=mixed
StandardError=append:{place}/serve.err
"""
PROBE = """show() {{ systemctl show ascend.service -p SubState,Result | tr '\\n' ' '; echo; }}
for i in $(seq 60); do show | grep -q SubState=running && break; sleep 0.5; done
show; sleep 9; show
kill -STOP $(systemctl show ascend.service -p MainPID --value)
sleep 9; show
pgrep -f {place}/host/bin/vllm | wc -l
kill -s RTMIN+13 1
"""
PROBE_SERVICE = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh {place}/probe.sh
StandardOutput=append:{place}/probe.txt
"""
TARGET = "[Unit]\nDefaultDependencies=no\nWants=ascend.service probe.service\n"
BOOT = """set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
# Nothing but ours may be in what systemd takes for its whole machine.
[ $(wc -l < /sys/fs/cgroup/systemd/cgroup.procs) -le 4 ]
mount -t tmpfs tmpfs /run
export container=docker SYSTEMD_UNIT_PATH={place}/units
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=0
"""


def boot(place: Path, group: str) -> None:
    """Run systemd to its end, at most 90 s, in cgroups and namespaces of its own."""
    enter = "; ".join(f"echo $$ > {base / group}/cgroup.procs" for base in CGROUPS)
    spaces = "unshare -C -m -p -u -i -f --kill-child --mount-proc"
    for base in CGROUPS:
        (base / group).mkdir()
    try:
        subprocess.run(
            ["sh", "-c", f"{enter}; exec timeout -s KILL 90 {spaces} sh {place}/boot.sh"],
            check=False,
        )
    finally:
        for base in CGROUPS:
            for path, _, _ in os.walk(base / group, topdown=False):
                Path(path).rmdir()


def main() -> None:
    """Show what systemd says of the run: serving, after 9 s, after the launcher stood still."""
    ready = all(base.is_dir() for base in CGROUPS) and shutil.which("systemctl")
    if os.geteuid() != 0 or not ready:
        raise SystemExit("needs root, systemd and a hybrid cgroup tree")
    with tempfile.TemporaryDirectory(prefix="systemd-") as name:
        place = Path(name)
        tree = Tree(place / "host", dp=2, tp=2)
        environment = "\n".join(f'Environment="{k}={v}"' for k, v in tree.env().items())
        command = " ".join(tree.command(*tree.serve_words()))
        words = {"place": place, "root": ROOT, "environment": environment, "command": command}
        units = {"ascend.service": SERVICE, "probe.service": PROBE_SERVICE, "test.target": TARGET}
        (place / "units").mkdir()
        for unit, text in units.items():
            (place / "units" / unit).write_text(text.format(**words))
        (place / "boot.sh").write_text(BOOT.format(**words))
        (place / "probe.sh").write_text(PROBE.format(**words))
        boot(place, place.name)
        shown = (place / "probe.txt").read_text().splitlines()
        names = ("serving", "after_9_s", "after_stop", "left")
        print(json.dumps({"figure": "systemd", **dict(zip(names, shown, strict=False))}))


if __name__ == "__main__":
    main()
