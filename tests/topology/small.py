"""Small topologies as YAML text, and what checking them finds."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.core.finding import Finding
from ascend_v4.topology.check import Checked, check_topology
from ascend_v4.topology.read import parse_topology

__all__ = ["PD", "SEVERAL", "broken", "changed", "checked", "many", "text_of"]

#: One A3 node prefills, one decodes: a published launch.
PD: dict[str, Any] = {
    "schema": 1,
    "name": "pair",
    "chip": "a3",
    "model_dir": "/models/flash",
    "allow_unvalidated": True,
    "nodes": [
        {"name": "p0", "address": "10.0.0.1", "interface": "eth0"},
        {"name": "d0", "address": "10.0.0.2", "interface": "eth0"},
    ],
    "groups": [
        {
            "name": "prefill",
            "role": "prefill",
            "nodes": ["p0"],
            "data_parallel_size": 4,
            "tensor_parallel_size": 4,
        },
        {
            "name": "decode",
            "role": "decode",
            "nodes": ["d0"],
            "data_parallel_size": 16,
            "tensor_parallel_size": 1,
        },
    ],
}

#: Pro over two A3 nodes, one API server.
SEVERAL: dict[str, Any] = {
    **{key: value for key, value in PD.items() if key not in ("nodes", "groups")},
    "name": "several",
    "model": "pro",
    "engine_version": "0.26.0rc1",
    "nodes": [
        {"name": "n0", "address": "10.0.0.1", "interface": "eth0"},
        {"name": "n1", "address": "10.0.0.2", "interface": "eth0"},
    ],
    "groups": [
        {
            "name": "server",
            "nodes": ["n0", "n1"],
            "data_parallel_size": 2,
            "tensor_parallel_size": 16,
        },
    ],
}


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a topology with values set at dotted paths; an index past a list's end appends.

    None takes a key or an item away.
    """
    made = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
        at: Any = made
        for part in parents:
            at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
        if value is None:
            del at[leaf]
        elif isinstance(at, list) and leaf == len(at):
            at.append(value)
        else:
            at[leaf] = value
    return made


def text_of(topology: dict[str, Any]) -> str:
    """Return a topology as a file with a line for each key."""
    return yaml.safe_dump(topology, sort_keys=False)


def checked(topology: dict[str, Any]) -> Checked:
    """Return a checked topology."""
    return check_topology(parse_topology(text_of(topology), "t.yaml"), catalog())


def broken(topology: dict[str, Any]) -> list[Finding]:
    """Return what refuses a topology."""
    return [note for note in checked(topology).findings if note.severity in ("error", "silent")]


def many(nodes: int) -> dict[str, Any]:
    """Return so many A3 nodes, half of them prefilling: ten server processes for each."""
    names = [f"n{number}" for number in range(nodes)]
    half = nodes // 2
    return {
        **PD,
        "nodes": [
            {"name": name, "address": f"10.0.{n // 250}.{n % 250 + 1}", "interface": "eth0"}
            for n, name in enumerate(names)
        ],
        "groups": [
            {**PD["groups"][0], "nodes": names[:half], "replicas": half},
            {**PD["groups"][1], "nodes": names[half:], "replicas": nodes - half},
        ],
    }
