"""Plain launch options as a topology of one node, so that one machine renders like many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ascend_v4.catalog.load import catalog
from ascend_v4.core.resolve import ASSUMED_CHIP
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.model import Group, Node, Router, Topology

if TYPE_CHECKING:
    from ascend_v4.core.request import LaunchRequest

__all__ = ["topology_of"]

#: Options that a topology states in a place of its own.
NAMED = (
    "profile", "chip", "engine", "engine_version", "image", "model", "model_dir", "devices",
    "nodes", "port", "host",
)  # fmt: skip
SIZES = ("data_parallel_size", "tensor_parallel_size")


def topology_of(request: LaunchRequest, name: str = "") -> Topology:
    """Return the topology of a launch on one node, whose address is the one to listen on.

    Raises AscendV4Error (usage) for more than one node: their addresses must be known.
    """
    asked = request.asked()
    if asked.get("nodes", 1) > 1:
        raise AscendV4Error(
            ExitCode.USAGE,
            "needs-topology",
            f"--nodes {asked['nodes']}: a launch on several nodes needs their addresses",
            "ascend-v4 topology init > topology.yaml; ascend-v4 render TARGET -f topology.yaml",
        )
    rest: Any = {key: value for key, value in asked.items() if key not in (*NAMED, *SIZES)}
    node = Node(name="node", address=asked.get("host", "127.0.0.1"), devices=devices_of(asked))
    group = Group(
        name="server",
        nodes=["node"],
        port=asked.get("port"),
        extra=list(request.extra),
        **{key: asked[key] for key in SIZES if key in asked},
    )
    keys = ("chip", "engine_version", "image", "model_dir")
    stated = {key: asked[key] for key in keys if key in asked}
    return Topology(
        name=name or label(asked.get("model", "flash")),
        profile=asked.get("profile"),
        model=asked.get("model", "flash"),
        options=rest,
        allow_unvalidated=request.allow_unvalidated,
        nodes=[node],
        groups=[group],
        router=Router(kind="none"),
        **stated,
    )


def label(model: str) -> str:
    """Return a model's name as a name of files and objects."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:42].strip("-") or "server"


def devices_of(asked: Mapping[str, Any]) -> int | None:
    """Return the devices of the launch: some chips serve on fewer than a node has."""
    chip = asked.get("chip") or ASSUMED_CHIP.get(asked.get("profile", ""), "")
    usual = catalog().chip(chip).get("default_devices") if chip else None
    return asked.get("devices") or usual
