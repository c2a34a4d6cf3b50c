"""The batch script under a real Slurm, and on stand-ins where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.render.targets import RenderOptions, notes, render
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from tests.support.slurm import cluster

from .cases import deployment
from .test_more_targets import possible

#: `cluster up` as it is, but it only says what it would run.
#: Both nodes of the tests' Slurm are one machine, and two nodes with one address are refused.
DRY = """\
#!/bin/bash
sed -i '0,/{address}/s/{address}/10.99.99.99/' "$4"
exec "{python}" -m ascend_v4 "$@" --dry-run
"""
#: What a job's environment gives, on stand-ins.
STAND_INS = {
    "scontrol": "#!/bin/bash\nprintf '%s\\n' alpha beta\n",
    "srun": (
        '#!/bin/bash\necho "$1" >>"$SRUN_LOG"\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n'
    ),
    "ip": "#!/bin/bash\necho '2: eth0 inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0'\n",
    "ascend-v4": '#!/bin/bash\necho "$*"\ncat "$4"\nexit 9\n',
}


def test_a_job_gets_all_memory_of_its_nodes():
    """--exclusive gives the cores alone; --mem=0 is sbatch's word for all memory of a node."""
    (text,) = render("slurm", deployment("a3-1p1d"), RenderOptions()).values()
    assert "\n#SBATCH --exclusive\n" in text and "\n#SBATCH --mem=0\n" in text


def script_of(case: str, folder: Path, interface: str = "") -> Path:
    """Write the batch script of a case and return its path."""
    ((name, text),) = render("slurm", deployment(case), RenderOptions()).items()
    path = folder / name
    if interface:
        both = f'interfaces=("{interface}" "{interface}")'
        text = re.sub(r"^interfaces=.*$", both, text, count=1, flags=re.M)
    path.write_text(text)
    return path


def programs(folder: Path, texts: dict[str, str]) -> Path:
    """Write executable files and return their folder."""
    folder.mkdir()
    for name, text in texts.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
    return folder


def test_the_script_fills_in_its_machines(tmp_path):
    """Addresses and hosts stand in the topology, and the exit status is that of `cluster`."""
    bin_folder = programs(tmp_path / "bin", STAND_INS)
    path = script_of("a3-1p1d", tmp_path)
    done = subprocess.run(
        ["bash", path], capture_output=True, text=True, check=False,
        env={
            **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "TMPDIR": str(tmp_path),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x", "SRUN_LOG": str(tmp_path / "srun"),
        },
    )  # fmt: skip
    first, _, document = done.stdout.partition("\n")
    file = tmp_path / f"{path.stem}-7.yaml"
    assert (done.returncode, first) == (9, f"cluster up -f {file}"), done.stderr
    made = yaml.safe_load(document)
    hosts = [node["connect"].split()[2] for node in made["nodes"]]
    assert hosts == ["--nodelist=alpha", "--nodelist=beta"]
    assert [node["address"] for node in made["nodes"]] == ["10.1.2.3", "10.1.2.3"]
    assert "@" not in document
    assert (tmp_path / "srun").read_text().split() == ["--nodelist=alpha", "--nodelist=beta"]


def with_router(host: str) -> Deployment:
    """Return a case of two nodes whose router listens on ``host``."""
    topology = deployment("a3-1p1d").topology
    router = topology.router.model_copy(update={"host": host})
    return deploy(topology.model_copy(update={"router": router}), catalog())


def told_of_host(host: str) -> tuple[str, list[str]]:
    """Return the host of the router in a batch script, and the ids of what is said of it."""
    whole = with_router(host)
    (text,) = render("slurm", whole, RenderOptions()).values()
    document = text.partition("<<'TOPOLOGY'\n")[2].partition("TOPOLOGY\n")[0]
    said = [note.id for note in notes("slurm", whole, RenderOptions())]
    return yaml.safe_load(document)["router"]["host"], said


def test_the_router_listens_where_the_job_runs():
    """A node's address is that of whatever machine the job gets for the node."""
    nodes = {planned.node.name: planned.node.address for planned in deployment("a3-1p1d").nodes}
    for name, address in nodes.items():
        assert told_of_host(address) == (f"@ADDRESS:{name}@", [])
    for host in ("127.0.0.1", "0.0.0.0", "::", "localhost"):
        assert told_of_host(host) == (host, [])
    for host in ("10.9.9.9", "gateway.example.org"):
        assert told_of_host(host) == (host, ["router-host-fixed"])
    assert notes("slurm", deployment("pro-2xa3"), RenderOptions()) == []


def test_too_few_machines_start_nothing(tmp_path):
    one = {**STAND_INS, "scontrol": "#!/bin/bash\necho alpha\n"}
    bin_folder = programs(tmp_path / "bin", one)
    done = subprocess.run(
        ["bash", script_of("a3-1p1d", tmp_path)], capture_output=True, text=True, check=False,
        env={
            **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x",
        },
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "the job has 1 nodes, the topology 2\n"


def test_a_machine_without_the_interface_is_named(tmp_path):
    failing = {**STAND_INS, "ip": "#!/bin/bash\necho 'no such device' >&2\nexit 1\n"}
    bin_folder = programs(tmp_path / "bin", failing)
    done = subprocess.run(
        ["bash", script_of("a3-1p1d", tmp_path, "eth9")],
        capture_output=True, text=True, check=False,
        env={
            **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "TMPDIR": str(tmp_path),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x", "SRUN_LOG": str(tmp_path / "srun"),
        },
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (17, "")
    assert done.stderr == "no such device\nno IPv4 address of eth9 on alpha\n"


@pytest.fixture(scope="module")
def slurm():
    """A real Slurm; its sockets want a short path."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder,
        cluster(Path(folder)) as env,
    ):
        yield env


@pytest.mark.parametrize("case", possible("slurm"))
def test_sbatch_takes_the_job(case, tmp_path, slurm):
    """sbatch --test-only: every directive is understood and the job would be placed."""
    if len(deployment(case).nodes) > 2:
        pytest.skip("more nodes than the Slurm of these tests has")
    done = subprocess.run(
        ["sbatch", "--test-only", script_of(case, tmp_path)],
        env=slurm, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


def test_a_job_reaches_every_node_of_a_real_slurm(tmp_path, slurm):
    """The job resolves its nodes by srun, then `cluster up` would start each by an srun."""
    said = subprocess.run(
        ["ip", "-4", "-o", "addr", "show", "scope", "global"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    if not said:
        pytest.skip("no interface with a global IPv4 address")
    interface, address = said[1], said[3].split("/")[0]
    dry = DRY.format(python=sys.executable, address=address)
    bin_folder = programs(tmp_path / "bin", {"ascend-v4": dry})
    path = script_of("a3-1p1d", tmp_path, interface)
    done = subprocess.run(
        ["sbatch", "--wait", f"--output={tmp_path}/job.log", path],
        env={**slurm, "PATH": f"{bin_folder}:{slurm['PATH']}", "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    log = (tmp_path / "job.log").read_text()
    assert done.returncode == 0, log
    for node, host in (("prefill", "node0"), ("decode", "node1")):
        name = next(
            n.node.name for n in deployment("a3-1p1d").nodes
            if n.plan.processes[0].role == node
        )  # fmt: skip
        assert f"{name} is {host}, {address}" in log
        assert f"serve --topology - --node {name} --lease" in log
        assert f"srun --nodelist={host} --nodes=1 --ntasks=1 --overlap" in log
