"""``ascend-v4 cluster`` and ``serve --topology`` without starting anything."""

import json
import shlex

import pytest

from ascend_v4 import __version__
from ascend_v4.catalog.load import catalog
from ascend_v4.cluster.deployment import peers_of, planned
from ascend_v4.cluster.preflight import Answer, examine
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.host.system import Host
from tests.support.fakehost import FakeHost

TOPOLOGY = """\
schema: 1
name: rehearse
profile: cpu
model: rehearsal
allow_unvalidated: true
nodes:
- {name: n0, address: 10.0.0.1, interface: eth0}
- {name: n1, address: 10.0.0.2, connect: 'root@head:n1', interface: eth0}
- {name: n2, address: 10.0.0.3, connect: 'exec: docker exec -i n2', interface: eth0}
- {name: n3, address: 10.0.0.4, connect: local, interface: eth0}
groups:
- {name: server, nodes: [n0, n1, n2, n3], data_parallel_size: 4, tensor_parallel_size: 1}
"""
SSH = (
    "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 --"
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(TOPOLOGY)
    return path


def test_dry_run_shows_each_way_and_each_command(ascend, file):
    done = ascend("cluster", "up", "-f", file, "--dry-run", "--json", "--drain-timeout", "5")
    told = json.loads(done.out)
    assert told["endpoint"] == "http://10.0.0.1:8000/v1"
    serve = "ascend-v4 serve --topology - --node {} --lease 30 --json --drain-timeout 5"
    ways = [shlex.join(row["argv"]) for row in told["nodes"]]
    assert ways[0] == f"{SSH} 10.0.0.1 {shlex.quote(serve.format('n0'))}"
    assert ways[1] == f"{SSH} root@head:n1 {shlex.quote(serve.format('n1'))}"
    assert ways[2] == f"docker exec -i n2 {serve.format('n2')}"
    assert ways[3].endswith(f"-m {serve.format('n3').replace('ascend-v4', 'ascend_v4')}")
    heads = {row["node"]: list(row["processes"]) for row in told["nodes"]}
    assert heads == {f"n{n}": [f"server-0-{n}"] for n in range(4)}
    last = told["nodes"][3]["processes"]["server-0-3"]
    assert last.endswith("--data-parallel-rpc-port 12321 \\\n  --headless")
    assert "--shutdown-timeout 5 " in last


ROUTED = """\
schema: 1
name: pd
profile: cpu
model: rehearsal
nodes:
- {name: here, address: 127.0.0.1, connect: local}
groups:
- {name: prefill, role: prefill, nodes: [here]}
- {name: decode, role: decode, nodes: [here]}
"""


@pytest.mark.parametrize("words", [("cluster", "up", "-f"), ("serve", "--topology")])
@pytest.mark.parametrize(("deadline", "told"), [(None, "600"), ("5000", "5000"), ("0.5e2", "50")])
def test_the_router_waits_as_long_as_the_deadline(ascend, file, words, deadline, told):
    """vllm-router gives its servers up after a time of its own."""
    file.write_text(ROUTED)
    more = [] if deadline is None else ["--deadline", deadline]
    done = ascend(*words, file, "--dry-run", *more)
    assert (done.code, f"--worker-startup-timeout-secs {told} " in done.out) == (0, True)


def test_dry_run_as_text(ascend, file):
    done = ascend("serve", "--topology", file, "--node", "n1", "--dry-run")
    assert done.code == 0
    first, *rest = done.out.splitlines()
    assert first == "# server-0-1 on n1"
    lines = ascend("cluster", "up", "-f", file, "--dry-run").out.splitlines()
    at = lines.index("# which there runs server-0-1:")
    assert lines[at - 1].startswith(SSH)
    assert lines[at + 1 : at + 1 + len(rest)] == rest


def test_another_ssh_and_another_program(ascend, file, tmp_path):
    host = FakeHost(tmp_path, {"ASCEND_V4_SSH": "ssh -F my.cfg"}).host()
    words = ["cluster", "up", "-f", file, "--dry-run", "--json", "--program", "/opt/x"]
    told = json.loads(ascend(*words, host=host).out)
    assert told["nodes"][0]["argv"][:3] == ["ssh", "-F", "my.cfg"]
    assert told["nodes"][0]["argv"][-1].startswith("/opt/x serve --topology - --node n0 ")
    assert told["nodes"][3]["argv"][0] == "/opt/x"


@pytest.mark.parametrize(
    ("options", "code", "kind", "message"),
    [
        (["--node", "n9"], 2, "unknown-node", "node 'n9' is not in the topology."),
        ([], 2, "which-node", "the topology has 4 nodes and none was named: n0, n1, n2, n3"),
        (
            ["--node", "n0", "--chip", "a3", "--allow-unvalidated", "--", "--seed", "1"],
            2,
            "topology-and-options",
            "a topology says what is launched,"
            " so --chip, --allow-unvalidated, -- EXTRA can't stand beside it",
        ),
        (
            ["--node", "n0", "--lease", "9", "--detach"],
            2,
            "lease",
            "--lease and --detach exclude each other: who holds the lease decides",
        ),
    ],
)
def test_what_cannot_stand_together(ascend, file, options, code, kind, message):
    done = ascend("serve", "--json", "--topology", file, *options)
    error = json.loads(done.err.splitlines()[-1])["error"]
    assert (done.code, error["kind"]) == (code, kind)
    assert error["message"].startswith(message)


def test_a_file_of_launch_options_beside_a_topology(ascend, file, tmp_path):
    (tmp_path / "more.yaml").write_text("context: 8192\n")
    done = ascend("serve", "--topology", file, "--config", tmp_path / "more.yaml", "--dry-run")
    assert (done.code, "so --config can't stand beside it" in done.err) == (2, True)


@pytest.mark.parametrize("option", [["--node", "n0"], ["--lease", "5"]])
def test_only_beside_a_topology(ascend, option):
    done = ascend("serve", "--json", *option)
    assert (done.code, json.loads(done.err)["error"]["kind"]) == (2, "no-topology")


def test_a_node_that_runs_nothing(ascend, file):
    file.write_text(TOPOLOGY.replace("nodes: [n0, n1, n2, n3], data_parallel_size: 4",
                                     "nodes: [n0, n1], data_parallel_size: 2"))  # fmt: skip
    done = ascend("serve", "--json", "--topology", file, "--node", "n3")
    assert json.loads(done.err)["error"]["message"].startswith("node 'n3' runs nothing.")


def test_nothing_was_ever_started(ascend, file):
    done = ascend("cluster", "logs", "-f", file)
    assert (done.code, done.err.splitlines()[0]) == (2, "error: this user has no run of rehearse")


def test_who_asks_whom_for_a_cut(file):
    """Headless nodes ask their head, and so do nodes with an API of their own (hybrid)."""
    for more, router, port in (
        ("", "", 8000),
        (", load_balancing: hybrid", "router: {port: 9000, node: n0}\n", 7100),
    ):
        text = TOPOLOGY.replace("data_parallel_size: 4", f"data_parallel_size: 4{more}") + router
        whole = planned(text, "x", Host())
        head = (f"http://10.0.0.1:{port}",)
        assert peers_of(whole.deployment, "n3") == {"server-0-3": head}
        assert "server-0-0" not in peers_of(whole.deployment, "n0")


# What the nodes say of themselves, compared

PLAN = compile_plan(LaunchRequest(chip="a3", model_dir="/m"), catalog()).plan
PLANS = {f"n{number}": PLAN for number in range(3)}
GOOD = {"version": __version__, "serves": True, "weights": "v1 a", "engine": "0.32.0"}
NEED = PLAN.engine_version


def answers(*changes, skews=()):
    rows = [Answer(f"n{n}", {**GOOD, **change}) for n, change in enumerate(changes)]
    return [Answer(a.node, a.facts, skew_s=s) for a, s in zip(rows, skews or [0] * 9, strict=False)]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (answers({}, {}, {}), []),
        (
            answers({}, {"version": "2"}, {}),
            [
                (
                    "versions-differ",
                    "error",
                    f"node n1 has ascend-v4 2, this machine {__version__}",
                )
            ],
        ),
        (
            answers({"version": "2"}, {"version": "2"}),
            [
                (
                    "versions-differ",
                    "error",
                    f"node n{n} has ascend-v4 2, this machine {__version__}",
                )
                for n in (0, 1)
            ],
        ),
        (
            answers({"release": f"{NEED}+npu"}, {"release": NEED}),
            [],
        ),
        (
            answers({"release": "0.20.2"}, {"release": "0.20.2"}),
            [
                (
                    "other-release",
                    "error",
                    f"node n{n} has vllm-ascend 0.20.2, this launch is for {NEED}",
                )
                for n in (0, 1)
            ],
        ),
        (
            answers({}, {}, {"weights": "v1 b"}),
            [("weights-differ", "error", "node n2 has weights v1 b, n0 has weights v1 a")],
        ),
        (
            answers({}, {"weights": "none: /m isn't there"}),
            [("no-weights", "error", "node n1: /m isn't there")],
        ),
        (
            answers({"engine": None}, {}),
            [("no-engine", "error", "node n0 has no engine: no vllm on PATH and none of ours")],
        ),
        (
            answers({"engine": "0.31.0"}, {"engine": "0.32.0"}, {}),
            [("engines-differ", "error", "node n0 has engine 0.31.0, n1 has engine 0.32.0")],
        ),
        (
            answers({"engine": None, "runtime": "docker"}, {"runtime": "native"}),
            [],
        ),
        (
            answers({"serves": False, "weights": None, "engine": None}, {}),
            [],
        ),
        (
            answers({}, {}, skews=(4.9, -6.2)),
            [("clocks-differ", "warn", "the clock of node n1 is 6 s behind this machine's")],
        ),
        (
            answers({}, {}, skews=(40.0, -40.0)),
            [
                ("clocks-differ", "warn", "the clock of node n0 is 40 s ahead of this machine's"),
                ("clocks-differ", "warn", "the clock of node n1 is 40 s behind this machine's"),
                ("clocks-differ", "error", "the clock of node n0 is 80 s ahead of that of node n1"),
            ],
        ),
        (
            answers({}, {}, skews=(4.0, -4.0)),
            [("clocks-differ", "warn", "the clock of node n0 is 8 s ahead of that of node n1")],
        ),
        (
            answers({}, {}, skews=(61.0, 0.0)),
            [("clocks-differ", "error", "the clock of node n0 is 61 s ahead of this machine's")],
        ),
    ],
)
def test_nodes_compared(given, found):
    assert [(one.id, one.severity, one.message) for one in examine(given, PLANS)] == found


def test_weights_that_are_built_on_demand_may_be_missing():
    assert examine(answers({}, {"weights": "none: /m isn't there"}), PLANS, built=True) == []


def test_the_next_command_for_a_node_names_its_model():
    bare = answers({"engine": None, "weights": "none: /m isn't there"}, {})
    weights, engine = (one.fix for one in examine(bare, PLANS))
    assert weights == (
        "on n0: ascend-v4 download --profile ascend --model flash-w8a8-mtp --dir /m, "
        "or copy them there"
    )
    image = PLANS["n0"].image
    assert engine == f"on n0: run inside the image {image}, or add --runtime docker"


@pytest.mark.parametrize(
    ("programs", "words", "runtime"),
    [
        ([], [], "native"),
        (["docker"], [], "docker"),
        (["docker", "vllm"], [], "native"),
        (["docker", "vllm"], ["--runtime", "docker"], "docker"),
    ],
)
def test_a_node_tells_the_runtime_that_it_would_choose(ascend, tmp_path, programs, words, runtime):
    file = tmp_path / "one.yaml"
    file.write_text(
        "schema: 1\nname: one\nchip: a3\nruntime: auto\nmodel_dir: /m\nallow_unvalidated: true\n"
        "nodes:\n- {name: n0, address: 10.0.0.1, interface: eth0}\n"
        "groups:\n- {name: server, nodes: [n0]}\n"
    )
    fake = FakeHost(tmp_path)
    for name in programs:
        fake.program(name, "#!/bin/sh\n")
    done = ascend("cluster", "facts", "-f", file, "--node", "n0", *words, host=fake.host())
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["runtime"] == runtime


@pytest.mark.parametrize(
    "words", [("cluster", "up", "-f"), ("serve", "--node", "n0", "--topology")]
)
def test_a_dry_run_refuses_what_a_start_would(ascend, file, words):
    file.write_text(TOPOLOGY.replace("10.0.0.2", "10.0.0.1"))
    done = ascend(*words, file, "--dry-run")
    assert (done.code, done.out) == (3, "")
    assert "10.0.0.1" in done.err


def test_nodes_that_cannot_be_asked_are_not_down(ascend, file):
    nobody = "connect: 'exec: false'"
    file.write_text(
        TOPOLOGY.replace("interface: eth0}", f"interface: eth0, {nobody}}}", 1)
        .replace("connect: 'root@head:n1'", nobody)
        .replace("connect: 'exec: docker exec -i n2'", nobody)
        .replace("connect: local", nobody)
    )
    told = json.loads(ascend("cluster", "status", "-f", file, "--json").out)
    assert told["state"] == "unknown"
    assert {node["state"] for node in told["nodes"]} == {"unreachable"}
