"""Published launches over several nodes as topology files, and what we compile for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ascend_v4.catalog.load import catalog
from ascend_v4.core.launch import Launch, parse_flags
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.model import Topology

__all__ = ["PUBLISHED", "first_launch", "planned", "topology_of"]

DATA = Path(__file__).resolve().parents[1] / "data"
PUBLISHED: list[dict[str, Any]] = json.loads((DATA / "published_deployments.json").read_text())


def workload_of(launch: dict[str, Any]) -> str:
    """Return the workload that asks for the published context."""
    asked = (group["args"].get("max-model-len", 0) for group in launch["groups"])
    longest = max(number if isinstance(number, int) else 0 for number in asked)
    return "long-context" if longest > 250_000 else "throughput"


def topology_of(launch: dict[str, Any], version: str) -> Topology:
    """Return the topology file of a published launch: its nodes and sizes, nothing else."""
    nodes: dict[str, dict[str, str]] = {}
    groups: list[dict[str, Any]] = []
    for group in launch["groups"]:
        count = range(group["nodes"])
        names = [group.get("node", f"{group['role'][0]}{number}") for number in count]
        for number, name in enumerate(names):
            address = f"10.0.{len(groups)}.{number + 1}"
            nodes.setdefault(name, {"name": name, "address": address, "interface": "eth0"})
        groups.append(
            {
                "name": group["role"],
                "role": group["role"],
                "nodes": names,
                "data_parallel_size": group["dp"],
                "tensor_parallel_size": group["tp"],
                **{key: group[key] for key in ("devices", "first_device") if key in group},
            }
        )
    return Topology.model_validate(
        {
            "schema": 1,
            "name": "published",
            "chip": launch["chip"],
            "engine_version": version,
            "model": launch["model"],
            "model_dir": "/models/published",
            "options": {"workload": workload_of(launch), "spec": launch["spec"]},
            "connector": launch.get("connector"),
            "allow_unvalidated": True,
            "nodes": list(nodes.values()),
            "groups": groups,
        }
    )


def planned(launch: dict[str, Any], version: str) -> Deployment:
    """Return our deployment of a published launch's shape on a release."""
    return deploy(topology_of(launch, version), catalog())


def first_launch(deployment: Deployment, role: str) -> Launch:
    """Return what the first server process of a role is started with."""
    for _, process in deployment.processes():
        if process.role == role:
            flags = parse_flags(process.argv[3:])
            return Launch(dict(process.env), flags, process.argv[2])
    raise KeyError(role)
