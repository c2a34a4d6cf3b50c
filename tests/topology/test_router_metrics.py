"""The router's metrics: a port of the plan like any other, open only as far as its API."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from ascend_v4.core.launch import parse_flags
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host
from ascend_v4.run.prelaunch import check_ports, resources

from .small import PD, broken, changed, checked

#: Two servers, one on each node, behind vllm-router.
REPLICAS: dict[str, Any] = {
    **PD,
    "name": "replicas",
    "groups": [{"name": "server", "nodes": ["p0", "d0"], "replicas": 2}],
}
CUDA: dict[str, Any] = {**REPLICAS, "chip": "h200", "model": "flash-fp4"}


def exporter(topology: dict[str, Any]) -> tuple[list[int], dict[str, str]]:
    """Return the router's ports, and what its arguments say of the exporter."""
    deployment = checked(topology).deployment
    assert deployment is not None
    router = deployment.router()
    assert router is not None
    told = {
        name.removeprefix("prometheus-"): str(value)
        for name, value in parse_flags(router[1].argv[1:]).items()
        if name.startswith("prometheus-")
    }
    return [port.port for port in router[1].ports], told


@pytest.mark.parametrize(
    ("router", "port", "host"),
    [
        ({}, 29000, "127.0.0.1"),
        ({"metrics_port": 29100}, 29100, "127.0.0.1"),
        ({"host": "10.0.0.1"}, 29000, "10.0.0.1"),
        ({"host": "0.0.0.0"}, 29000, "0.0.0.0"),
        # vllm-router would take all addresses for a name.
        ({"host": "localhost"}, 29000, "127.0.0.1"),
        ({"extra": ["--prometheus-port", "29200"]}, 29200, "127.0.0.1"),
        ({"extra": ["--prometheus-port=29200", "--prometheus-host=::1"]}, 29200, "::1"),
    ],
)
def test_the_exporter_listens_where_the_api_does(
    router: dict[str, Any], port: int, host: str
) -> None:
    ports, told = exporter({**CUDA, "router": router})
    assert ports == [8000, port]
    assert told == {"port": str(port), "host": host}


def test_mooncakes_ports_are_left_to_it() -> None:
    """16 dies: 20000 to 35999. What we choose ourselves passes the check."""
    assert exporter(REPLICAS)[0] == [8000, 19999]
    assert exporter(changed(REPLICAS, {"chip": "a2"}))[0] == [8000, 29000]


def test_a_server_on_the_same_port_is_seen() -> None:
    wrong = changed(CUDA, {"groups.0.port": 29000})
    (found,) = [f for f in broken(wrong) if f.id == "port-taken"]
    assert "port 29000 of node p0" in found.message
    assert "the router (Prometheus metrics)" in found.message
    both = {**CUDA, "router": {"metrics_port": 8000}}
    assert "port-collision" in [f.id for f in broken(both)]


def test_two_deployments_on_one_node_claim_the_same_port(tmp_path: Any) -> None:
    """Whatever else differs, the second is refused by the claim of the first."""
    first = checked({**CUDA, "router": {"port": 8000}}).deployment
    second = checked({**CUDA, "name": "other", "router": {"port": 9000}}).deployment
    assert first is not None and second is not None
    taken = []
    for deployment in (first, second):
        plan = deployment.node_plan("p0").plan
        router = [process for process in plan.processes if process.role == "router"]
        taken.append(set(resources(plan, router, Host(env={}))))
    assert taken[0] & taken[1] == {"port-29000"}


def test_a_port_that_is_taken_is_named_before_anything_starts() -> None:
    """vllm-router itself would end with a backtrace."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        deployment = checked({**CUDA, "router": {"port": free(), "metrics_port": port}}).deployment
        assert deployment is not None
        router = deployment.router()
        assert router is not None
        with pytest.raises(AscendV4Error, match=rf"port {port} \(Prometheus metrics\)") as busy:
            check_ports(router[1], Host())
    assert (busy.value.code, busy.value.kind) == (ExitCode.BUSY, "port-in-use")
    assert busy.value.next == "stop it, or choose another: router.metrics_port in the topology"


def free() -> int:
    """Return a TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("topology", "says"),
    [
        ({**PD, "router": {"metrics_port": 29000}}, "has no metrics"),
        ({**CUDA, "router": {"extra": ["--prometheus-port", "x"]}}, "takes a port, not x"),
    ],
)
def test_a_port_that_would_do_nothing_is_refused(topology: dict[str, Any], says: str) -> None:
    with pytest.raises(AscendV4Error, match=says):
        checked(topology)
