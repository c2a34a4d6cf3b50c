"""Devices, RDMA and chips: a container gets what the processes inside it need."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.render.docker import docker_argv
from ascend_v4.render.targets import RenderOptions, notes, render
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.model import Topology
from tests.support.fakehost import FakeHost

TWO = [
    {"name": "a", "address": "10.0.0.1", "interface": "eth0"},
    {"name": "b", "address": "10.0.0.2", "interface": "eth0"},
]
ONE = TWO[:1]


def group(name: str, *nodes: str, **more: Any) -> dict[str, Any]:
    """Return a group of one rank for each device, half a node's by default."""
    sizes = {"data_parallel_size": 4, "tensor_parallel_size": 1, "devices": 4}
    return {"name": name, "nodes": list(nodes), **sizes, **more}


def pair(first: str, second: str, **more: Any) -> list[dict[str, Any]]:
    """Return a prefill and a decode group; on one node the second takes its second half."""
    start = 4 if first == second else 0
    return [
        group("p", first, role="prefill", **more),
        group("d", second, role="decode", first_device=start, **more),
    ]


def planned(nodes: list[dict], groups: list[dict], **more: Any) -> Deployment:
    """Return a deployment on H200s, unless ``more`` says otherwise."""
    topology = {
        "schema": 1, "name": "x", "chip": "h200", "model": "flash", "model_dir": "/models/flash",
        "allow_unvalidated": True, "nodes": nodes, "groups": groups,
    }  # fmt: skip
    return deploy(Topology.model_validate({**topology, **more}), catalog())


def service(deployment: Deployment, node: str = "a") -> dict[str, Any]:
    """Return the Compose service of a node's servers."""
    text = render("compose", deployment, RenderOptions())[f"compose.{node}.yaml"]
    services = yaml.safe_load(text)["services"].items()
    (found,) = (each for name, each in services if name != "router")
    return dict(found)


def pods(deployment: Deployment, **options: Any) -> dict[str, dict[str, Any]]:
    """Return the pod of each group's LeaderWorkerSet, by group."""
    files = render("k8s-lws", deployment, RenderOptions(**options))
    sets = {name[4:-5]: text for name, text in files.items() if name.startswith("lws-")}
    inner = {
        name: yaml.safe_load(text)["spec"]["leaderWorkerTemplate"] for name, text in sets.items()
    }
    return {name: each["workerTemplate"]["spec"] for name, each in inner.items()}


def server(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the server container of a pod."""
    (found,) = pod["containers"]
    return dict(found)


@pytest.mark.parametrize(
    ("chip", "variable"), [("h200", "CUDA_VISIBLE_DEVICES"), ("a2", "ASCEND_RT_VISIBLE_DEVICES")]
)
def test_compose_counts_the_containers_devices_anew(chip, variable):
    """The second half of a node is a container's devices 0 to 3, as `docker run` has it."""
    half = planned(ONE, [group("s", "a", first_device=4)], chip=chip)
    assert half.nodes[0].plan.processes[0].env[variable] == "4,5,6,7"
    made = service(half)
    assert made["environment"][variable] == "0,1,2,3"
    handed = str(made.get("deploy", "")) + str(made.get("devices", ""))
    assert [n for n in range(8) if f"'{n}'" in handed or f"davinci{n}" in handed] == [4, 5, 6, 7]
    script = render("docker", half, RenderOptions())["a.sh"]
    assert f"--env {variable}=0,1,2,3" in script or f"--env '{variable}=0,1,2,3'" in script


def test_compose_counts_anew_what_several_servers_share():
    """Two servers on devices 2 to 5 of eight see 0, 1 and 2, 3 of their container."""
    halves = [
        group("s", "a", data_parallel_size=2, devices=2, first_device=2),
        group("t", "a", data_parallel_size=2, devices=2, first_device=4),
    ]
    inner = render("compose", planned(ONE, halves), RenderOptions())["a.inner.sh"]
    seen = [line.split("=")[1] for line in inner.splitlines() if "CUDA_VISIBLE_DEVICES=" in line]
    assert seen == ["0,1", "2,3"] or seen == ["'0,1'", "'2,3'"]


#: What of RDMA each gets: (Docker and Compose, Kubernetes).
REACH = {
    "Mooncake on two nodes": (
        planned(TWO, pair("a", "b"), connector="MooncakeConnector"), (True, True)),
    "Mooncake on one node, over RDMA there too": (
        planned(ONE, pair("a", "a"), connector="MooncakeConnector"), (True, True)),
    "NIXL on two nodes": (planned(TWO, pair("a", "b"), connector="NixlConnector"), (True, True)),
    "NIXL within a container, or between two pods": (
        planned(ONE, pair("a", "a"), connector="NixlConnector"), (False, True)),
    "a replica over two nodes": (
        planned(TWO, [group("s", "a", "b", data_parallel_size=16, devices=8)]), (True, True)),
    "replicas that know nothing of each other": (
        planned(TWO, [group("s", "a", "b", replicas=2)]), (False, False)),
    "one server": (planned(ONE, [group("s", "a")]), (False, False)),
}  # fmt: skip


@pytest.mark.parametrize("case", REACH)
def test_rdma_on_gpus(case):
    deployment, (container, pod) = REACH[case]
    made = service(deployment)
    assert ("/dev/infiniband:/dev/infiniband" in made.get("devices", [])) == container
    assert made.get("cap_add", []) == ["IPC_LOCK"] * container
    assert ("memlock" in made.get("ulimits", {})) == container
    words = render("docker", deployment, RenderOptions())["a.sh"].split()
    for option in ("/dev/infiniband", "IPC_LOCK", "memlock=-1:-1"):
        assert (option in words) == container
    first = next(iter(pods(deployment).values()))
    capabilities = server(first)["securityContext"].get("capabilities", {})
    assert capabilities == ({"add": ["IPC_LOCK"]} if pod else {})
    for target in ("k8s-lws", "k8s-deployment", "kthena"):
        told = {note.id: note for note in notes(target, deployment, RenderOptions())}
        assert ("no-rdma" in told) == pod
        if pod:
            assert told["no-rdma"].severity == "risk"
            assert "--rdma-resource" in told["no-rdma"].fix


def test_the_rdma_resource_that_was_named():
    deployment, _ = REACH["NIXL on two nodes"]
    for pod in pods(deployment, rdma_resource="rdma/ib").values():
        limits = server(pod)["resources"]
        assert limits["limits"] == limits["requests"] == {"nvidia.com/gpu": 4, "rdma/ib": 1}
    options = RenderOptions(rdma_resource="rdma/ib")
    assert "no-rdma" not in [note.id for note in notes("k8s-lws", deployment, options)]
    alone, _ = REACH["one server"]
    (pod,) = pods(alone, rdma_resource="rdma/ib").values()
    assert server(pod)["resources"]["limits"] == {"nvidia.com/gpu": 4}


def test_npus_have_a_network_of_their_own():
    whole = planned(TWO, pair("a", "b"), chip="a2")
    assert "/dev/infiniband:/dev/infiniband" not in service(whole)["devices"]
    assert "no-rdma" not in [note.id for note in notes("k8s-lws", whole, RenderOptions())]


def test_serve_gives_a_container_what_its_host_has(tmp_path):
    deployment, _ = REACH["Mooncake on two nodes"]
    plan = deployment.nodes[0].plan
    without = docker_argv(plan, plan.processes[0], host=FakeHost(tmp_path).host())
    host = FakeHost(tmp_path).file("/dev/infiniband/uverbs0").host()
    with_it = docker_argv(plan, plan.processes[0], host=host)
    assert [word for word in with_it if word not in without] == ["--device", "/dev/infiniband"]
    assert "IPC_LOCK" in without


@pytest.mark.parametrize("target", ["k8s-lws", "k8s-deployment"])
def test_each_group_has_its_own_chips_image_and_nodes(target):
    """Prefill on A2, decode on A3."""
    nodes = [{**TWO[0], "chip": "a2"}, {**TWO[1], "chip": "a3"}]
    mixed = planned(nodes, pair("a", "b"), chip=None)
    images = {each.node.name: each.plan.image for each in mixed.nodes}
    assert len(set(images.values())) == 2
    files = render(target, mixed, RenderOptions())
    for name, node, label in (("p", "a", "module-910b-8"), ("d", "b", "module-a3-16")):
        file = f"lws-{name}.yaml" if target == "k8s-lws" else f"statefulset-{name}.yaml"
        spec = yaml.safe_load(files[file])["spec"]
        if target == "k8s-lws":
            spec = spec["leaderWorkerTemplate"]
        pod = spec.get("workerTemplate", spec.get("template"))["spec"]
        assert server(pod)["image"] == images[node]
        (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert label in term["matchExpressions"][0]["values"]


def test_each_group_has_its_own_weights():
    """Without model_dir a chip's own checkpoint, in the directory of all weights."""
    nodes = [{**TWO[0], "chip": "a3"}, {**TWO[1], "chip": "a5"}]
    mixed = planned(nodes, [group("s", "a"), group("t", "b")], chip=None, model_dir=None)
    paths = {each.node.name: each.plan.model_path for each in mixed.nodes}
    assert len(set(paths.values())) == 2
    for name, node in (("s", "a"), ("t", "b")):
        pod = pods(mixed)[name]
        (weights,) = (each for each in pod["volumes"] if each["name"] == "weights")
        assert weights["hostPath"]["path"] == paths[node]
        assert f"exec vllm serve {paths[node]} " in server(pod)["command"][-1]


def test_the_router_ends_as_the_servers_do():
    deployment, _ = REACH["NIXL on two nodes"]
    text = render("k8s-lws", deployment, RenderOptions())["router.yaml"]
    router = yaml.safe_load(text)["spec"]["template"]["spec"]
    pod = next(iter(pods(deployment).values()))
    ends = [each["lifecycle"]["preStop"]["exec"]["command"][-1] for each in
            (router["containers"][0], server(pod))]  # fmt: skip
    assert ends[0] == "sleep 10"
    assert ends[1].startswith("sleep 10; exec python3 /etc/ascend-v4/probe.py idle:60 ")
    assert pod["terminationGracePeriodSeconds"] == 160
    assert router["terminationGracePeriodSeconds"] >= 10 + deployment.processes()[-1][1].drain_s
