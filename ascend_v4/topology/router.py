"""What clients talk to before several servers: vllm-router, or the proxy of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.conditions import applies
from ascend_v4.core.placement import Placement
from ascend_v4.core.plan import Port, Process, Ready
from ascend_v4.core.rules import fill
from ascend_v4.errors import AscendV4Error, ExitCode

from .model import Node, Topology
from .place import GroupSizes

__all__ = ["router_node", "router_process", "router_row"]


def router_node(topology: Topology, sizes: Mapping[str, GroupSizes]) -> Node | None:
    """Return the node that the router runs on; None where one server takes every request."""
    router = topology.router
    ends = sum(ends_of(sizes[group.name]) * group.replicas for group in topology.groups)
    if router.kind == "none" or (ends <= 1 and router.kind == "auto"):
        return None
    return topology.node(router.node) if router.node else topology.nodes[0]


def ends_of(sizes: GroupSizes) -> int:
    """Return how many servers of one replica take requests (at least)."""
    return sizes.data_parallel if sizes.load_balancing == "external" else 1


def router_row(topology: Topology, facts: Mapping[str, Any], catalog: Catalog) -> Row:
    """Return the catalog row of the router that speaks the deployment's connector.

    Raises AscendV4Error (refused) where none does.
    """
    connector = facts.get("kv_connector", "none")
    asked = topology.router.kind
    for row in catalog.table("routers"):
        fits = connector in row["connectors"] and applies(row.get("when", {}), facts, catalog)
        if fits and asked in ("auto", row["kind"]):
            return row
    raise AscendV4Error(
        ExitCode.REFUSED,
        "no-router",
        f"no router of kind {asked} speaks the connector {connector}",
        "set router.kind to auto, or connector to one that vllm-router speaks",
    )


def router_process(
    topology: Topology,
    node: Node,
    facts: Mapping[str, Any],
    placements: Sequence[Placement],
    deadline_s: int,
    catalog: Catalog,
) -> Process:
    """Return the router's process."""
    facts = dict(facts) | {
        name: placements[0].facts()[name] for name in ("prefill_dp", "decode_dp")
    }
    row = router_row(topology, facts, catalog)
    router = topology.router
    own = {**facts, "host": router.host, "port": router.port, "deadline_s": deadline_s}
    argv = [fill(word, own) for word in row["argv"]]
    for each in row["lists"]:
        argv += list_words(each, placements)
    key = topology.options.get("api_key_file")
    address = "127.0.0.1" if router.host in ("0.0.0.0", "::") else router.host
    bracketed = f"[{address}]" if ":" in address else address
    return Process(
        name="router",
        role="router",
        argv=(*argv, *router.extra),
        env={},
        secret_env={row["key_variable"]: key} if key and "key_variable" in row else {},
        node=node.name,
        ports=(Port(router.port, "OpenAI-compatible API"),),
        ready=Ready(f"http://{bracketed}:{router.port}"),
        deadline_s=deadline_s,
    )


def list_words(row: Row, placements: Sequence[Placement]) -> list[str]:
    """Return a flag with a value for each server of its side."""
    ends = [p for p in placements if p.role == row["side"] and not p.headless]
    words: list[str] = [row["flag"]] if row.get("together") and ends else []
    for placement in ends:
        facts = placement.facts()
        if not row.get("together"):
            words.append(row["flag"])
        words += [fill(value, facts) for value in row["values"]]
    return words
