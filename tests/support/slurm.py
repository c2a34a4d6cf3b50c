"""A real Slurm of two nodes on this machine, for tests: munged, slurmctld, two slurmd.

Debian's packages munge, slurm-client, slurmctld and slurmd are enough; nothing outside the
folder is touched, and every daemon is gone at the end.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "ip")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ReturnToService=2
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
GresTypes=npu,gpu
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 Gres=npu:16,gpu:8
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 Gres=npu:16,gpu:8
PartitionName=all Nodes=node[0-1] Default=YES MaxTime=INFINITE State=UP
"""


def find(program: str) -> str | None:
    """Return a program's path, the system's own folders included."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Return TCP ports that were free just now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def configure(folder: Path) -> None:
    """Write everything that the daemons read."""
    for name in ("munge", "state", "spool-node0", "spool-node1"):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(
        CONF.format(folder=folder, host=host, user=getpass.getuser(), ports=free_ports(3))
    )
    for nth in range(8):
        (folder / f"gpu{nth}").touch()  # Slurm counts GPUs by their device files
    gpus = f"Name=gpu File={folder}/gpu[0-7]"
    (folder / "gres.conf").write_text(f"Name=npu Count=16\n{gpus}\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")


def commands(folder: Path) -> list[list[str]]:
    """Return the daemons, each in the foreground."""
    munge, conf = folder / "munge", folder / "slurm.conf"
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    words = [f"--{option}={munge / name}" for option, name in files.items()]
    return [
        ["munged", "--foreground", "--force", *words, f"--log-file={munge / 'log'}"],
        ["slurmctld", "-c", "-D", "-f", str(conf)],
        *(["slurmd", "-D", "-N", node, "-f", str(conf)] for node in ("node0", "node1")),
    ]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Slurm of two nodes; yield the environment in which its commands work."""
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt install munge slurm-client slurmctld slurmd")
    folder.chmod(0o755)
    configure(folder)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in commands(folder):
            log = (folder / f"{words[0]}-{len(started)}.log").open("wb")
            program = find(words[0]) or words[0]
            started.append(subprocess.Popen([program, *words[1:]], env=env, stdout=log, stderr=log))
            time.sleep(0.5)
        wait_idle(env, folder)
        yield env
    finally:
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def wait_idle(env: dict[str, str], folder: Path) -> None:
    """Wait until both nodes take jobs."""
    said = ""
    for _ in range(120):
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%t %D"],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        if said.split() == ["idle", "2"]:
            return
        time.sleep(0.25)
    logs = "\n".join(p.read_text(errors="replace")[-600:] for p in folder.glob("slurm*.log"))
    raise AssertionError(f"Slurm is not idle: {said}\n{logs}")
