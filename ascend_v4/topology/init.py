"""Start a topology file: a published shape, the user's options and nodes, with comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.catalog.load import Catalog, Row, nearest
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode

from .model import NAME
from .subjects import address_kind, same_address

__all__ = ["Start", "shape_row", "start_text"]

#: Addresses kept for documentation, which `topology check` warns of (RFC 5737).
PLACEHOLDER = "192.0.2.{}"
#: Launch options that have a key of their own at the top.
TOP = ("profile", "chip", "engine_version", "model", "model_dir")
#: Launch options that a shape decides, and where the file says them if it does.
DECIDED = {
    "nodes": "",
    "devices": "",
    "engine": "",
    "host": "router.host",
    "port": "router.port",
    "tensor_parallel_size": "",
    "data_parallel_size": "",
}
NAME_SAYS = "up to 42 lower-case letters, digits and inner dashes"
PREFIX = {"prefill": "p", "decode": "d", "mixed": "n"}


@dataclass(frozen=True)
class Start:
    """What a topology file starts from: a shape, launch options, nodes and their interface.

    ``nodes`` holds (name, address) pairs, or is empty for ``count`` nodes with addresses
    to be filled in; ``count`` 0 stands for the shape's own number.
    """

    shape: str
    request: LaunchRequest
    name: str = ""
    nodes: tuple[tuple[str, str], ...] = ()
    count: int = 0
    interface: str = ""
    connector: str = ""
    allow_unvalidated: bool = field(default=False)


def shape_row(name: str, catalog: Catalog) -> Row:
    """Return a shape by id or alias; raises AscendV4Error (usage) naming those there are."""
    for row in catalog.table("shapes"):
        if name in (row["id"], *row.get("aliases", [])):
            return row
    known = [row["id"] for row in catalog.table("shapes")]
    hint = nearest(name, known) or f"the shapes are {', '.join(known)}"
    what = f"'{name}' is not a shape. {hint}" if name else f"--shape is missing; {hint}"
    raise AscendV4Error(ExitCode.USAGE, "unknown-shape", what, "ascend-v4 topology shapes")


def start_text(start: Start, catalog: Catalog) -> str:
    """Return the text of a topology file.

    Raises AscendV4Error (usage) for an unknown shape and for options or nodes that it
    doesn't take.
    """
    shape = shape_row(start.shape, catalog)
    check_options(shape, start)
    check_nodes(start.nodes)
    members, names = dealt(shape, start)
    chip = start.request.chip or shape["chip"]
    lines = [
        f"# {shape['title']}",
        f"# Source: {shape['source']}",
        "# Check it with `ascend-v4 topology check FILE`; docs/topology.md has every key.",
        "schema: 1",
        f"name: {scalar(start.name or shape['id'])}",
        *top_lines(shape, start, chip),
        "nodes:",
        *node_lines(start, names, chip, catalog),
        "groups:",
    ]
    for group in shape["groups"]:
        lines += group_lines(group, members[group["name"]], start, chip, catalog)
    if routed(shape, members):
        lines += router_lines(shape, start)
    return "\n".join(lines) + "\n"


def routed(shape: Row, members: Mapping[str, list[str]]) -> bool:
    """Whether several servers of a shape take requests, so that a router stands before them."""
    return any(
        "role" in group or (group.get("replicas", 1) or len(members[group["name"]])) > 1
        for group in shape["groups"]
    )


def check_options(shape: Row, start: Start) -> None:
    """Raise AscendV4Error (usage) for an option that the shape decides or doesn't take."""
    asked = start.request.asked()
    chips = [shape["chip"], *shape.get("chips", [])]
    connectors = shape.get("connectors", [shape["connector"]] if "connector" in shape else [])
    wrong = [
        f"--{name.replace('_', '-')} is what the shape decides; change it in the file"
        for name, key in DECIDED.items()
        if name in asked and not key
    ]
    if start.request.chip and start.request.chip.split(":")[0] not in chips:
        wrong.append(f"shape {shape['id']} is for {', '.join(chips)}, not {start.request.chip}")
    pair = [name for name in ("host", "port") if name in asked]
    if pair and not any("role" in group or "replicas" in group for group in shape["groups"]):
        wrong.append(
            f"shape {shape['id']} has one server and no router; --{pair[0]} is its group's"
        )
    if start.connector and start.connector not in connectors:
        takes = f"takes {', '.join(connectors)}" if connectors else "has no choice of connector"
        wrong.append(f"shape {shape['id']} {takes}, not {start.connector}")
    if wrong:
        raise AscendV4Error(
            ExitCode.USAGE, "shape-option", "; ".join(wrong), "ascend-v4 topology shapes"
        )


def check_nodes(nodes: Sequence[tuple[str, str]]) -> None:
    """Raise AscendV4Error (usage) for names and addresses that no deployment can have."""
    wrong: list[str] = []
    owner: dict[str, str] = {}
    names: set[str] = set()
    for name, address in nodes:
        if not re.fullmatch(NAME, name):
            wrong.append(f"'{name}' is no name of a node: {NAME_SAYS}")
        if name in names:
            wrong.append(f"two nodes are called {name}")
        kind = address_kind(address)
        if kind in ("broken", "any"):
            wrong.append(f"'{address}' of node {name} is no IP address or host name of a machine")
        other = owner.setdefault(same_address(address), name)
        if other != name:
            wrong.append(f"node {name} has the address of node {other}, {address}")
        names.add(name)
    if wrong:
        raise AscendV4Error(
            ExitCode.USAGE, "bad-node", "; ".join(wrong), "--node NAME=ADDRESS for each machine"
        )


def dealt(shape: Row, start: Start) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Return the nodes of each group by name, and all nodes with their addresses.

    Raises AscendV4Error (usage) for a number of nodes that the shape doesn't have.
    """
    fixed = sum(group.get("nodes", 1) for group in shape["groups"] if "shares" not in group)
    flexible = any(group.get("nodes", 1) == 0 for group in shape["groups"])
    count = len(start.nodes) or start.count or shape["nodes"][0]
    if not flexible and count != fixed:
        raise AscendV4Error(
            ExitCode.USAGE,
            "shape-nodes",
            f"shape {shape['id']} has {fixed} nodes, not {count}",
            "ascend-v4 topology shapes",
        )
    members: dict[str, list[str]] = {}
    named: list[tuple[str, str]] = []
    for group in shape["groups"]:
        if "shares" in group:
            members[group["name"]] = members[group["shares"]]
            continue
        wanted = group.get("nodes", 1) or count
        first = len(named)
        letter = PREFIX[group.get("role", "mixed")]
        made = [(f"{letter}{n}", PLACEHOLDER.format(first + n + 1)) for n in range(wanted)]
        named += list(start.nodes[first : first + wanted]) or made
        members[group["name"]] = [name for name, _ in named[first:]]
    return members, named


def top_lines(shape: Row, start: Start, chip: str) -> Iterator[str]:
    """Yield the keys at the top: chip, release, model, options."""
    request = start.request
    yield f"chip: {scalar(chip)}"
    release = request.engine_version or shape.get("engine_version")
    if release:
        yield f"engine_version: {scalar(release)}"
    yield f"model: {scalar(request.model or shape['model'])}"
    if request.model_dir:
        yield f"model_dir: {scalar(request.model_dir)}"
    else:
        yield "# model_dir: /models/flash  # the weights, at the same path on every node"
    connector = start.connector or shape.get("connector")
    if connector:
        yield f"connector: {connector}"
    asked = request.asked()
    options = {
        **shape.get("options", {}),
        **{name: value for name, value in asked.items() if name not in (*TOP, *DECIDED)},
    }
    if options:
        yield "options:"
        yield from (f"  {name}: {scalar(value)}" for name, value in options.items())
    yield from pool_lines(shape)
    if start.allow_unvalidated or request.allow_unvalidated:
        yield "# Nobody has published this layout for this release."
        yield "allow_unvalidated: true"


def pool_lines(shape: Row) -> Iterator[str]:
    """Yield the KV pool of a shape and the variables of its servers, each below its reason."""
    if shape.get("kv_pool"):
        yield "# KV that every replica may read; --kv-transfer-config follows from it."
        yield "kv_pool:"
        yield from (f"  {key}: {scalar(value)}" for key, value in shape["kv_pool"].items())
    if shape.get("env"):
        yield "env:"
        for each in shape["env"]:
            yield from (f"  # {line}" for line in each["reason"].splitlines())
            yield f"  {each['name']}: {scalar(each['value'])}"


def node_lines(
    start: Start, named: Sequence[tuple[str, str]], chip: str, catalog: Catalog
) -> Iterator[str]:
    """Yield the nodes; what the user has yet to fill in carries a comment."""
    yield "# address: the IP that the other nodes reach; interface: the one that has it."
    todo = "" if start.nodes else "  # CHANGE: its own address"
    interface = start.interface or "eth0"
    shown = bool(start.interface) or catalog.chip(chip)["profile"] == "ascend"
    if not start.interface and shown:
        todo = todo + " and interface" if todo else "  # CHANGE: its interface"
    for name, address in named:
        more = f", interface: {scalar(interface)}" if shown else ""
        yield f"- {{name: {scalar(name)}, address: {scalar(address)}{more}}}{todo}"


def group_lines(
    group: Row, nodes: list[str], start: Start, chip: str, catalog: Catalog
) -> Iterator[str]:
    """Yield a group, its reason above it."""
    yield f"# {group['reason']}"
    yield f"- name: {group['name']}"
    if "role" in group:
        yield f"  role: {group['role']}"
    yield f"  nodes: [{', '.join(scalar(name) for name in nodes)}]"
    replicas = group.get("replicas", 1) or len(nodes)
    if replicas > 1:
        yield f"  replicas: {replicas}"
    yield f"  data_parallel_size: {data_parallel(group, len(nodes), chip, catalog)}"
    for key in ("tensor_parallel_size", "load_balancing", "devices", "first_device"):
        if key in group:
            yield f"  {key}: {group[key]}"
    extra = [*group.get("extra", []), *start.request.extra]
    if extra:
        yield "  extra:"
        yield from (f"  - {scalar(word)}" for word in extra)


def data_parallel(group: Row, nodes: int, chip: str, catalog: Catalog) -> int:
    """Return the data parallel size of a group over its nodes."""
    if "data_parallel_size" in group:
        return int(group["data_parallel_size"])
    per_node = group.get("data_parallel_per_node")
    return nodes * int(per_node or catalog.chip(chip)["devices_per_node"])


def router_lines(shape: Row, start: Start) -> Iterator[str]:
    """Yield where clients connect to."""
    asked: Mapping[str, Any] = start.request.asked()
    if any("role" in group for group in shape["groups"]):
        yield "# What clients talk to. It asks no client for a key, api_key_file or not: beyond"
        yield "# loopback, put a proxy that asks for one before it."
    else:
        yield "# What clients talk to. Beyond loopback it wants a key: api_key_file in options."
    yield "router:"
    yield f"  host: {scalar(asked.get('host', '127.0.0.1'))}"
    yield f"  port: {scalar(asked.get('port', 8000))}"


def scalar(value: Any) -> str:
    """Return a scalar as YAML reads it back, between braces too."""
    import yaml

    text = yaml.safe_dump([value], default_flow_style=True, width=100_000, allow_unicode=True)
    return str(text).strip()[1:-1]
