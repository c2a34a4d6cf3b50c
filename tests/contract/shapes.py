"""Deployments over several nodes, and of prefill and decode apart, as engine jobs.

Their shapes are those of the published launches. Only the processes that an engine could
judge differently become jobs: the head and one headless node of a replica, the first and
the last rank where every rank is a server of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ascend_v4.catalog.load import catalog
from ascend_v4.core.plan import Process
from ascend_v4.core.request import LaunchRequest
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.init import Start, start_text
from ascend_v4.topology.model import Topology
from ascend_v4.topology.read import parse_topology
from tests.catalog.deployments import PUBLISHED, planned
from tests.contract.client import Job
from tests.contract.overlays import ASCEND_RELEASES, VLLM_VERSIONS
from tests.contract.shipped import Shipped

__all__ = ["ALL", "deployed", "gpu_shapes", "parser_jobs", "pooled"]

#: On which releases the shapes with a KV pool are tried: the default one and two later ones.
POOL_RELEASES = ("0.23.0.post1", "0.28.0rc1", "0.30.0rc2")

#: ``ASCEND_V4_CONTRACT_ALL=1 pytest -m contract tests/contract/test_plans.py`` asks about
#: every published shape and rank; CI asks about one rank of each side of every tutorial.
ALL = os.environ.get("ASCEND_V4_CONTRACT_ALL") == "1"


def distinct(deployment: Deployment) -> list[Process]:
    """Return the server processes that an engine could judge differently."""
    kinds: dict[tuple[str, ...], Process] = {}
    for _, process in deployment.processes():
        if process.role == "router":
            continue
        group = deployment.group_of(process)
        kinds.setdefault((group, process.role, "first"), process)
        if ALL:
            kinds[(group, process.role, "last")] = process
    return list({process.name: process for process in kinds.values()}.values())


def layout(launch: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells one published shape from another."""
    sizes = [(g["role"], g["nodes"], g["dp"], g["tp"]) for g in launch["groups"]]
    return (launch["chip"], launch["model"], launch["topology"], launch["spec"], *sizes)


def deployed() -> Iterator[Shipped]:
    """Yield the processes of every published Ascend shape on the releases that have it."""
    seen = set()
    for launch in PUBLISHED:
        for version in launch["versions"]:
            key = (version, *layout(launch))
            if (
                version not in ASCEND_RELEASES
                or key in seen
                or (launch["kind"] == "ci" and not ALL)
            ):
                continue
            seen.add(key)
            deployment = planned(launch, version)
            told = tuple(deployment.notes())
            weights = launch.get("weights", launch["model"])
            for process in distinct(deployment):
                job = Job(version, launch["chip"], process.env, process.argv, weights)
                words = [version, launch["chip"], launch["model"], launch["spec"]]
                yield Shipped("-".join([*words, process.name]), job, told)


def pooled() -> Iterator[Shipped]:
    """Yield the processes of the shapes with a KV pool, mixed and with prefill apart."""
    for shape in ("kv-pool", "kv-pool-pd"):
        for version in POOL_RELEASES:
            asked = LaunchRequest(engine_version=version, allow_unvalidated=True)
            text = start_text(Start(shape, asked, interface="eth0"), catalog())
            deployment = deploy(parse_topology(text, shape).topology, catalog())
            for process in distinct(deployment):
                job = Job(version, "a3", process.env, process.argv, "flash-w8a8-mtp")
                name = f"{version}-a3-{shape}-{process.name}"
                yield Shipped(name, job, tuple(deployment.notes()))


def gpu_shapes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, topology file) of the GPU shapes of the vLLM recipe."""
    two = [{"name": f"n{n}", "address": f"10.0.0.{n + 1}", "interface": "eth0"} for n in (0, 1)]
    half = [{"name": "n0", "address": "10.0.0.1", "interface": "eth0"}]
    pair = [
        {"name": "p", "role": "prefill", "nodes": ["n0"], "devices": 4},
        {"name": "d", "role": "decode", "nodes": ["n0"], "devices": 4, "first_device": 4},
    ]
    for balancing in ("internal", "hybrid", "external"):
        group = {"name": "s", "nodes": ["n0", "n1"], "load_balancing": balancing}
        yield f"nodes-{balancing}", {"nodes": two, "groups": [group]}
    for connector in ("NixlConnector", "MooncakeConnector"):
        yield connector, {"nodes": half, "groups": pair, "connector": connector}


def rehearsed() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, topology file) of the shapes that are rehearsed on CPUs."""
    nodes = [{"name": f"n{n}", "address": f"10.0.0.{n + 1}"} for n in range(2)]
    ranks = [{"name": "s", "nodes": ["n0", "n1"], "data_parallel_size": 2}]
    pair = [
        {"name": "p", "role": "prefill", "nodes": ["n0"]},
        {"name": "d", "role": "decode", "nodes": ["n1"]},
    ]
    yield "cpu-nodes", {"nodes": nodes, "groups": ranks}
    yield "cpu-pair", {"nodes": nodes, "groups": pair}


def parser_jobs() -> list[tuple[str, Job]]:
    """Return (name, job) of each distinct process of each shape on each vLLM release.

    The parser knows no device type, so one engine process serves all of a release.
    """
    rows = [row["version"] for row in catalog().table("releases") if row["engine"] == "vllm"]
    gpus = {"chip": "h200", "model": "flash-fp4"}
    cases = [
        (version, name, {**gpus, "engine_version": version, **shape})
        for version in VLLM_VERSIONS
        if version in rows
        for name, shape in gpu_shapes()
    ]
    cases += [("0.32.0", name, {"profile": "cpu", **shape}) for name, shape in rehearsed()]
    found = []
    for version, name, shape in cases:
        file = {"schema": 1, "name": "shape", "allow_unvalidated": True, **shape}
        deployment = deploy(Topology.model_validate(file), catalog())
        for process in distinct(deployment):
            job = Job(version, "h200", process.env, process.argv, "flash-fp4")
            found.append((f"{version}-{name}-{process.name}", job))
    return found
