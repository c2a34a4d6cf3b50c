"""Routers take the command lines we give them, and send the servers the deployment's key."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.request
from typing import ClassVar

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.model import Topology
from tests.catalog.deployments import PUBLISHED, planned
from tests.contract.overlays import ASCEND_RELEASES, IndexUnreachable, engine_python
from tests.contract.routers import (
    IMAGE_ROOT,
    parsed_by_proxy,
    parsed_by_router,
    proxy_script,
    router_path,
)
from tests.contract.shapes import ALL, gpu_shapes

pytestmark = pytest.mark.contract
#: The proxy's arguments changed with 0.21.0rc1 only; ASCEND_V4_CONTRACT_ALL=1 asks them all.
PROXIES = tuple(ASCEND_RELEASES) if ALL else ("0.20.2rc1", "0.23.0.post1", "0.30.0rc2")


@pytest.fixture(scope="module")
def env(contract_env):
    """Return the environment, with the index known to answer."""
    try:
        router_path(contract_env)
    except IndexUnreachable as error:
        pytest.skip(str(error))
    return contract_env


def gpu_router(name, **more):
    file = {"schema": 1, "name": "gpus", "chip": "h200", "model": "flash-fp4",
            "allow_unvalidated": True, **dict(gpu_shapes())[name], **more}  # fmt: skip
    return deploy(Topology.model_validate(file), catalog()).router()[1]


@pytest.mark.parametrize("name", ["NixlConnector", "MooncakeConnector"])
def test_vllm_router_reads_a_pair_as_meant(name, env):
    process = gpu_router(name)
    read = parsed_by_router(env, process.argv)
    kind = {"NixlConnector": "nixl", "MooncakeConnector": "mooncake"}[name]
    bootstrap = 8998 if kind == "mooncake" else None
    assert read["prefill_urls"] == [["http://10.0.0.1:7100", bootstrap]]
    assert read["decode_urls"] == ["http://10.0.0.1:7101"]
    assert read["kv_connector"] == kind
    assert read["vllm_pd_disaggregation"] is True
    assert read["intra_node_data_parallel_size"] == 4
    assert (read["host"], read["port"]) == ("127.0.0.1", 8000)
    assert (read["prometheus_host"], read["prometheus_port"]) == ("127.0.0.1", 29000)
    assert read["worker_startup_timeout_secs"] == process.deadline_s


@pytest.mark.parametrize("name", ["NixlConnector", "nodes-hybrid"])
def test_vllm_router_reads_addresses_of_ipv6(name, env):
    """Without brackets it refuses the URL: the port can't be told from the address."""
    shape = dict(gpu_shapes())[name]
    nodes = [{**n, "address": n["address"].replace("10.0.0.", "fd00::")} for n in shape["nodes"]]
    read = parsed_by_router(env, gpu_router(name, nodes=nodes).argv)
    if name == "nodes-hybrid":
        assert read["worker_urls"] == ["http://[fd00::1]:7100", "http://[fd00::2]:7100"]
    else:
        assert read["prefill_urls"] == [["http://[fd00::1]:7100", None]]
        assert read["decode_urls"] == ["http://[fd00::1]:7101"]


def test_vllm_router_reads_ranks_with_a_server_each_as_meant(env):
    process = gpu_router("nodes-external")
    read = parsed_by_router(env, process.argv)
    assert read["worker_urls"] == [
        f"http://10.0.0.{n}:{7100 + i}" for n in (1, 2) for i in range(8)
    ]
    assert read["vllm_pd_disaggregation"] is False


def ascend_router(release):
    """Return the router of the first published pair of a release, and the pair's sizes."""
    launch = next(
        p for p in PUBLISHED if release in p["versions"] and p["topology"] == "pd-disaggregated"
    )
    return planned(launch, release).router()[1], {g["role"]: g["dp"] for g in launch["groups"]}


@pytest.mark.parametrize("release", [r for r in PROXIES if r != "0.13.0rc3"])
def test_the_images_proxy_reads_every_rank(release, env):
    """The script is where we say it is in the release's sources, and takes our arguments."""
    process, ranks = ascend_router(release)
    assert process.argv[1].startswith(IMAGE_ROOT)
    read = parsed_by_proxy(env, release, process.argv)
    for side, role in (("prefiller", "prefill"), ("decoder", "decode")):
        assert len(read[f"{side}_hosts"]) == len(read[f"{side}_ports"]) == ranks[role]
    assert read["prefiller_ports"] == list(range(7100, 7100 + ranks["prefill"]))
    assert (read["host"], read["port"]) == ("127.0.0.1", 8000)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers every request; keeps the key it was called with, by port."""

    keys: ClassVar[dict[int, str]] = {}

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "m"}]})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/v1/completions":
            self.keys[self.server.server_port] = self.headers.get("authorization", "")
        self.answer({"id": "x", "object": "text_completion", "choices": [],
                     "kv_transfer_params": {"remote_engine_id": "e"}})  # fmt: skip

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        return


@contextlib.contextmanager
def two_servers():
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [server.server_port for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def keys_sent(argv, env, port):
    """Start a router, ask it once with a client's own key, and return what the servers saw."""
    Server.keys.clear()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    body = json.dumps({"model": "m", "prompt": "hi", "max_tokens": 2}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer of-the-client"}
    url = f"http://127.0.0.1:{port}/v1/completions"
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                request = urllib.request.Request(url, body, headers)
                urllib.request.urlopen(request, timeout=20).read()
                break
            time.sleep(0.5)
    finally:
        process.terminate()
        process.wait(timeout=30)
    return dict(Server.keys)


def keyed(row_id):
    return next(row for row in catalog().table("routers") if row["id"] == row_id)["key_variable"]


def test_vllm_router_sends_the_key_of_its_own_variable_for_a_pair(env):
    """Without the variable it would send an empty key in place of the client's."""
    port, metrics = free_port(), free_port()
    with two_servers() as (first, second):
        argv = [
            str(engine_python(env)), "-m", "vllm_router.launch_router", "--host", "127.0.0.1",
            "--port", str(port), "--prometheus-port", str(metrics), "--vllm-pd-disaggregation",
            "--prefill", f"http://127.0.0.1:{first}", "--decode", f"http://127.0.0.1:{second}",
        ]  # fmt: skip
        child = {**env, "PYTHONPATH": router_path(env), keyed("vllm-router-nixl"): "ours"}
        seen = keys_sent(argv, child, port)
    assert seen == {first: "Bearer ours", second: "Bearer ours"}


def metrics_of(address, port):
    """Return what the exporter says, once it answers; raises OSError where it never does."""
    for _ in range(120):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=5).read()
        time.sleep(0.5)
    raise OSError("no metrics")


def test_vllm_router_has_its_metrics_where_the_plan_says(env):
    """On loopback alone, though its host is a name that it would open every address for."""
    port, metrics = free_port(), free_port()
    with two_servers() as (server, _):
        file = {
            "schema": 1, "name": "one", "chip": "h200", "model": "flash-fp4",
            "allow_unvalidated": True, "nodes": [{"name": "n0", "address": "127.0.0.1"}],
            "groups": [{"name": "server", "nodes": ["n0"], "port": server}],
            "router": {"kind": "vllm-router", "host": "localhost", "port": port,
                       "metrics_port": metrics},
        }  # fmt: skip
        argv = deploy(Topology.model_validate(file), catalog()).router()[1].argv
        process = subprocess.Popen(
            [str(engine_python(env)), "-m", "vllm_router.launch_router", *argv[1:]],
            env={**env, "PYTHONPATH": router_path(env)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert b"vllm_router_worker_health" in metrics_of("127.0.0.1", metrics)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", metrics), timeout=5)
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_the_images_proxy_sends_the_key_of_its_own_variable(env):
    row = next(row for row in catalog().table("routers") if row["id"] == "ascend-proxy")
    script = proxy_script(env, "0.23.0.post1", row["argv"][1].removeprefix(IMAGE_ROOT))
    port = free_port()
    with two_servers() as (first, second):
        argv = [
            str(engine_python(env)), str(script), "--host", "127.0.0.1", "--port", str(port),
            "--prefiller-hosts", "127.0.0.1", "--prefiller-ports", str(first),
            "--decoder-hosts", "127.0.0.1", "--decoder-ports", str(second),
        ]  # fmt: skip
        seen = keys_sent(argv, {**env, keyed("ascend-proxy"): "ours"}, port)
    assert seen == {first: "Bearer ours", second: "Bearer ours"}
