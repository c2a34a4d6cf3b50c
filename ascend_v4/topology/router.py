"""What clients talk to before several servers: vllm-router, or the proxy of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.conditions import applies
from ascend_v4.core.launch import parse_flags
from ascend_v4.core.placement import Placement
from ascend_v4.core.plan import Port, Process, Ready
from ascend_v4.core.rules import fill
from ascend_v4.errors import AscendV4Error, ExitCode

from .model import Node, Router, Topology
from .place import GroupSizes

__all__ = ["asks_no_key", "ends_of", "router_node", "router_ports", "router_process", "router_row"]

METRICS = "prometheus-port"


def router_node(topology: Topology, sizes: Mapping[str, GroupSizes]) -> Node | None:
    """Return the node that the router runs on; None where one server takes every request."""
    router = topology.router
    ends = ends_of(topology, sizes)
    if router.kind == "none" or (ends <= 1 and router.kind == "auto"):
        return None
    return topology.node(router.node) if router.node else topology.nodes[0]


def ends_of(topology: Topology, sizes: Mapping[str, GroupSizes]) -> int:
    """Return how many servers take requests: of a replica one, one a node, or one a rank."""
    found = 0
    for group in topology.groups:
        chosen = sizes[group.name]
        one = {"external": group.replicas * chosen.data_parallel, "internal": group.replicas}
        found += one.get(chosen.load_balancing, max(group.replicas, len(group.nodes)))
    return found


def asks_no_key(row: Row) -> bool:
    """Whether a router answers every client: one that sends the servers' key by itself does."""
    return "key_variable" in row


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


def router_ports(
    topology: Topology, facts: Mapping[str, Any], devices: int, catalog: Catalog
) -> tuple[Port, ...]:
    """Return the TCP ports of the router, its API's first; ``devices`` are those of its node.

    Raises AscendV4Error (refused) as :func:`router_row`, (usage) for a metrics port that is no
    number, or of a router without metrics.
    """
    router = topology.router
    ports = (Port(router.port, "OpenAI-compatible API"),)
    row = router_row(topology, facts, catalog)
    if "metrics" not in row:
        if router.metrics_port is not None:
            raise AscendV4Error(
                ExitCode.USAGE,
                "router-metrics",
                f"metrics_port {router.metrics_port}: the router here, {row['id']}, has no metrics",
                "leave router.metrics_port out",
            )
        return ports
    asked = parse_flags(tuple(router.extra)).get(METRICS, router.metrics_port)
    if asked is None:
        asked = free_of_others(row["metrics"]["port"], str(facts["profile"]), devices, catalog)
    if not str(asked).isdecimal():
        raise AscendV4Error(
            ExitCode.USAGE,
            "router-extra",
            f"--{METRICS} of the router takes a port, not {asked}",
            "router.metrics_port in the topology",
        )
    return (*ports, Port(int(asked), "Prometheus metrics"))


def free_of_others(port: int, profile: str, devices: int, catalog: Catalog) -> int:
    """Return the port, or the next one below a range of the node that something else takes."""
    for row in catalog.table("reserved_ports"):
        count = row.get("count", 0) + row.get("per_device", 0) * devices
        if profile in row["profile"] and 0 <= port - row["first"] < count:
            return int(row["first"]) - 1
    return port


def metrics_words(router: Router, row: Row, ports: Sequence[Port]) -> list[str]:
    """Return the arguments of the router's exporter, those that the user states left out.

    Metrics need no key, so a router on loopback keeps them there. Where its host is a name,
    loopback too: the router reads addresses only, and falls back to all of them.
    """
    if "metrics" not in row:
        return []
    try:
        host = str(ip_address(router.host))
    except ValueError:
        host = "127.0.0.1"
    stated = parse_flags(tuple(router.extra))
    filled = [
        fill(word, {"metrics_port": ports[1].port, "metrics_host": host})
        for word in row["metrics"]["argv"]
    ]
    pairs = zip(filled[::2], filled[1::2], strict=True)
    return [word for pair in pairs if pair[0].removeprefix("--") not in stated for word in pair]


def router_process(
    topology: Topology,
    node: Node,
    facts: Mapping[str, Any],
    placements: Sequence[Placement],
    ports: tuple[Port, ...],
    deadline_s: int,
    catalog: Catalog,
) -> Process:
    """Return the router's process; ``ports`` as :func:`router_ports` has them."""
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
        argv=(*argv, *metrics_words(router, row, ports), *router.extra),
        env={},
        secret_env={row["key_variable"]: key} if key and "key_variable" in row else {},
        node=node.name,
        ports=ports,
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
