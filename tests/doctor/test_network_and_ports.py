"""Links between nodes, and the ports of a plan."""

import json
import os
import socket

import pytest

from ascend_v4.doctor.port_checks import Wanted, transfer_ports, wanted_ports
from ascend_v4.host.reach import tcp_reach
from ascend_v4.run.claims import Claims
from tests.doctor.support import ascend_host, look
from tests.host.test_hccn import text


def hccn(fake, good, bad="", sick=(), ping="ping-ok"):
    """Add an hccn_tool; devices in ``sick`` answer with ``bad``."""
    for name, said in (("good", text(good)), ("bad", text(bad) if bad else "")):
        fake.file(f"/{name}.txt", said)
    fake.file("/ping.txt", text(ping) if ping else "")
    cat = "/bin/cat"
    cases = "".join(f"  {n}) f=bad;;\n" for n in sick)
    # Addresses differ by device, as real ones do.
    return fake.program(
        "hccn_tool",
        f"#!/bin/sh\nf=good\ncase $2 in\n{cases}esac\n"
        f'case "$*" in *ping*) {cat} {fake.root}/ping.txt;;\n'
        f'*) while read -r l; do case "$l" in *ipaddr*) echo "ipaddr:10.0.0.$2";; '
        f'*) echo "$l";; esac; done < {fake.root}/$f.txt;;\nesac\n',
    )


NODES = {"nodes": 2, "allow_unvalidated": True}


def verdicts(checks):
    return {n.removeprefix("hccn-"): c.verdict for n, c in checks.items() if n.startswith("hccn-")}


def test_a_healthy_network(tmp_path):
    fake = hccn(ascend_host(tmp_path, "a2-idle", 8, 1), "a2-up")
    checks, _ = look(fake, npu_peers=("29.1.112.214",), **NODES)
    assert verdicts(checks) == dict.fromkeys(("link", "health", "tls", "address", "ping"), "ok")


def test_one_link_down_and_one_tls_switch_on(tmp_path):
    fake = hccn(ascend_host(tmp_path, "a2-idle", 8, 1), "a2-up", "a2-down", sick=(3,))
    checks, report = look(fake, **NODES)
    assert verdicts(checks) == {
        "link": "fail",
        "health": "warn",
        "tls": "fail",
        "address": "fail",
        "ping": "unknown",
    }
    assert checks["hccn-link"].outcome.message == "the link of device 3 is DOWN"
    assert checks["hccn-link"].fix.startswith("hccn_tool -i 3 -link -g")
    assert report.exit_code == 6


def test_a3_trusts_the_ping_over_the_link_line(tmp_path):
    fake = hccn(ascend_host(tmp_path), "a3-vnic")
    pinged = look(fake, npu_peers=("192.168.2.197",), **NODES)[0]
    assert (pinged["hccn-link"].verdict, pinged["hccn-health"].verdict) == ("warn", "ok")
    assert "trust the ping" in pinged["hccn-link"].outcome.message
    silent = look(fake, **NODES)[0]
    assert (silent["hccn-link"].verdict, silent["hccn-health"].verdict) == ("unknown", "warn")


def test_a_ping_that_does_not_come_through(tmp_path):
    fake = hccn(ascend_host(tmp_path), "a3-vnic", ping="ping-lost")
    checks, _ = look(fake, npu_peers=("192.168.2.197",), **NODES)
    assert (checks["hccn-ping"].verdict, checks["hccn-link"].verdict) == ("fail", "fail")
    assert checks["hccn-ping"].fix == "hccn_tool -i 0 -hccs_ping -g address 192.168.2.197"


def test_no_tool_is_unknown(tmp_path):
    checks, _ = look(ascend_host(tmp_path), **NODES)
    assert set(verdicts(checks).values()) == {"unknown"}
    assert "mount /usr/local/Ascend/driver/tools/hccn_tool" in checks["hccn-link"].outcome.message


def test_a_single_node_asks_nothing_of_the_network(tmp_path):
    assert verdicts(look(hccn(ascend_host(tmp_path), "a2-up"))[0]) == {}


def test_peers(tmp_path):
    fake = ascend_host(tmp_path)
    checks, _ = look(fake, peers=("127.0.0.1",), tool_s=1.0, **NODES)
    assert checks["peer"].verdict == "ok"
    checks, _ = look(fake, peers=("256.0.0.1",), tool_s=1.0, **NODES)
    assert checks["peer"].verdict == "fail"
    assert look(fake, **NODES)[0]["peer"].verdict == "unknown"


def test_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert tcp_reach("127.0.0.1", port, 2) == "open"
    assert tcp_reach("127.0.0.1", port, 2) == "closed"
    assert tcp_reach("no such host", 1, 2) == "silent"


def test_a_taken_port_is_busy_and_its_holder_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        checks, report = look(ascend_host(tmp_path), port=port)
    check = checks["ports"]
    assert (check.verdict, report.exit_code) == ("fail", 7)
    assert check.outcome.message.startswith(f"port {port} (OpenAI-compatible API) is held by ")
    assert f"(pid {os.getpid()})" in check.outcome.message
    assert check.fix.endswith(f"--port {port + 1}")


def test_devices_that_another_run_claimed(tmp_path):
    locks = tmp_path / "locks"
    locks.mkdir()
    fake = ascend_host(tmp_path / "host", env={"ASCEND_V4_LOCK_DIR": str(locks)})
    assert look(fake)[0]["claims"].verdict == "ok"
    claims = Claims(locks, {"run_id": "20260721-080000-abcd", "pid": 42, "user": "ann"})
    claims.take(["npu-0", "npu-1"])
    checks, report = look(fake)
    assert (checks["claims"].verdict, report.exit_code) == ("fail", 7)
    assert checks["claims"].outcome.message == (
        "npu-0, npu-1 in use by run 20260721-080000-abcd of ann (pid 42)"
    )
    assert checks["claims"].fix == "ascend-v4 stop 20260721-080000-abcd"
    claims.release()
    assert look(fake)[0]["claims"].verdict == "ok"


def test_a_taken_hccl_port(tmp_path):
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen(1)
        port = server.getsockname()[1]
        fake = ascend_host(tmp_path, env={"HCCL_IF_BASE_PORT": str(port - 3)})
        checks, _ = look(fake)
    assert checks["ports"].outcome.message.startswith(f"port {port} (HCCL (HCCL_IF_BASE_PORT))")
    assert "HCCL_IF_BASE_PORT=" in checks["ports"].fix


def test_ports_in_the_kernels_range(tmp_path):
    fake = ascend_host(tmp_path, env={"HCCL_IF_BASE_PORT": "60000"})
    fake.file("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999")
    checks, _ = look(fake)
    assert checks["port-ranges"].verdict == "warn"
    assert checks["port-ranges"].fix == "sysctl -w net.ipv4.ip_local_reserved_ports=60000-60015"
    fake.file("/proc/sys/net/ipv4/ip_local_reserved_ports", "60000-60015")
    assert look(fake)[0]["port-ranges"].verdict == "ok"


def test_every_port_of_a_multi_node_plan_is_listed(tmp_path):
    _, report = look(ascend_host(tmp_path), **NODES)
    uses = [entry.use for entry in wanted_ports(report.look)]
    assert uses[0] == "OpenAI-compatible API"
    assert {"HCCL (HCCL_IF_BASE_PORT)", "torch master"} <= set(uses)


@pytest.mark.parametrize("form", [dict, json.dumps])
def test_the_ports_of_a_kv_connector(form):
    config = {"kv_connector": "MooncakeHybridConnector", "kv_port": "30000"}
    assert transfer_ports(form(config), 16) == [
        Wanted("KV transfer (kv_port)", 30000, 30015),
        Wanted("Mooncake transport", 20000, 35999, drawn=True),
    ]
    assert transfer_ports("{broken", 16) == transfer_ports(None, 16) == []
