"""What deployment rules judge before anything is planned: the parts of the file, as facts.

Each subject is a kind, its facts and the path of its lines; ``deployment_rules`` of the
catalog says which facts break which rule.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from ascend_v4.catalog.load import Catalog, Row, nearest
from ascend_v4.core.launch import parse_flags
from ascend_v4.core.placement import is_placed

from .lines import Path
from .model import Group, Node, Topology
from .place import replicas_on_node
from .variables import looks_secret
from .words import word_at

__all__ = ["Plain", "Subject", "address_kind", "same_address", "subjects_of_file"]

#: How many unknown nodes of a group get the nearest known name.
HINTS = 5
#: Addresses kept for documentation (RFC 5737, RFC 3849).
DOCUMENTATION = tuple(
    ipaddress.ip_network(net)
    for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)


@dataclass(frozen=True)
class Subject:
    """One thing that rules judge: its kind, its facts and where it stands in the file.

    ``places`` are paths that a rule's ``at`` may name, ``also`` those of other parts that
    belong to the same cause. ``sides`` are the groups of a pair by the head of their facts,
    so that each fact's own line is found.
    """

    kind: str
    facts: Mapping[str, Any]
    path: Path = ()
    places: Mapping[str, Path] = field(default_factory=dict)
    also: tuple[Path, ...] = ()
    sides: Mapping[str, int] = field(default_factory=dict)

    @property
    def groups(self) -> set[int]:
        """Return the places of the groups that the subject lies in; none for the whole."""
        paths = (self.path, *self.also)
        return {int(path[1]) for path in paths if path[:1] == ("groups",) and len(path) > 1}


@dataclass(frozen=True)
class Plain:
    """A topology with what follows from the file and the catalog alone."""

    topology: Topology
    catalog: Catalog

    @cached_property
    def index(self) -> dict[str, int]:
        """Return the place in the file of each node; the first of two with one name."""
        found: dict[str, int] = {}
        for place, node in enumerate(self.topology.nodes):
            found.setdefault(node.name, place)
        return found

    @cached_property
    def users(self) -> Counter[str]:
        """Return how many groups use each node."""
        return Counter(name for group in self.topology.groups for name in set(group.nodes))

    @cached_property
    def chips(self) -> dict[str, Row]:
        """Return the catalog rows of the chips that the file names, by that name."""
        asked = {node.chip for node in self.topology.nodes} | {self.default_chip}
        return {name: self.catalog.chip(name) for name in asked if name}

    @property
    def default_chip(self) -> str:
        """Return the chip of nodes that name none."""
        from ascend_v4.core.resolve import ASSUMED_CHIP

        return self.topology.chip or ASSUMED_CHIP.get(self.topology.profile or "", "a3")

    def chip(self, node: Node) -> Row:
        """Return the chip row of a node."""
        return self.chips[node.chip or self.default_chip]

    def devices(self, node: Node) -> int:
        """Return the logical devices of a node."""
        return node.devices or int(self.chip(node)["devices_per_node"])

    def nodes_of(self, group: Group) -> list[Node]:
        """Return the nodes of a group that the file lists."""
        return [self.topology.nodes[self.index[n]] for n in group.nodes if n in self.index]


def subjects_of_file(plain: Plain) -> Iterator[Subject]:
    """Yield what can be judged before anything is planned."""
    yield topology_subject(plain)
    yield from node_subjects(plain)
    for place, group in enumerate(plain.topology.groups):
        yield from member_subjects(plain, group, place)
        yield group_subject(plain, group, place)
        yield from flag_subjects(group, place)
    yield from variable_subjects(plain)
    yield from path_subjects(plain)
    yield from overlap_subjects(plain)


def topology_subject(plain: Plain) -> Subject:
    """Return the topology as a whole."""
    topology = plain.topology
    places: dict[str, Path] = {}
    for place, group in enumerate(topology.groups):
        places.setdefault(group.role, ("groups", place))
    roles = Counter(group.role for group in topology.groups)
    node = topology.router.node or ""
    connectors = [row["id"] for row in plain.catalog.table("connectors")]
    unknown = topology.connector or ""
    unknown = "" if unknown in connectors else unknown
    places["connector"] = ("connector",)
    facts = {
        **{role: roles[role] for role in ("prefill", "decode", "mixed")},  # type: ignore[index]
        "nodes": len(topology.nodes),
        "kv_pool": topology.kv_pool.backend if topology.kv_pool else "",
        "profile": plain.chip(topology.nodes[0])["profile"],
        "router_node": node,
        "router_known": node in plain.index,
        "router_hint": "" if node in plain.index else hint(node, list(plain.index)),
        "unknown_connector": unknown,
        "connector_hint": hint(unknown, connectors),
    }
    return Subject("topology", facts, (), places)


def address_kind(address: str) -> str:
    """Return what an address is: ip, any, loopback, placeholder, name or broken."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        if address.lower() == "localhost":
            return "loopback"
        dotted = all(part.isdigit() for part in address.split("."))
        return "broken" if dotted or not host_name(address) else "name"
    if ip.is_loopback:
        return "loopback"
    if ip.is_unspecified:
        return "any"
    inside = any(ip.version == net.version and ip in net for net in DOCUMENTATION)
    return "placeholder" if inside else "ip"


def host_name(address: str) -> bool:
    """Whether a text could be a host name: letters, digits and dashes between dots."""
    labels = address.rstrip(".").split(".")
    return all(label.replace("-", "").isalnum() and label.isascii() for label in labels)


def same_address(address: str) -> str:
    """Return an address in the one form in which two spellings are equal."""
    try:
        return ipaddress.ip_address(address).compressed
    except ValueError:
        return address.lower().rstrip(".")


def node_subjects(plain: Plain) -> Iterator[Subject]:
    """Yield the nodes; of two with the same address or name, the later one tells."""
    topology = plain.topology
    by_address: dict[str, str] = {}
    names: set[str] = set()
    for place, node in enumerate(topology.nodes):
        chip, spelt = plain.chip(node), same_address(node.address)
        facts = {
            "name": node.name,
            "address": node.address,
            "address_kind": address_kind(node.address),
            "address_of": by_address.get(spelt, ""),
            "name_of": node.name in names,
            "interface": node.interface,
            "nodes": len(topology.nodes),
            "several": len(topology.nodes) > 1 and node.connect != "local",
            "used": plain.users[node.name] > 0 or topology.router.node == node.name,
            "chip": chip["id"],
            "profile": chip["profile"],
            "asked_profile": topology.profile or "",
            "devices": plain.devices(node),
            "devices_per_node": int(chip["devices_per_node"]),
        }
        by_address.setdefault(spelt, node.name)
        names.add(node.name)
        yield Subject("node", facts, ("nodes", place))


def member_subjects(plain: Plain, group: Group, place: int) -> Iterator[Subject]:
    """Yield the nodes that a group names."""
    seen: set[str] = set()
    unknown = 0
    for nth, name in enumerate(group.nodes):
        known = name in plain.index
        unknown += not known
        facts = {
            "group": group.name,
            "node": name,
            "known": known,
            # The nearest of a thousand names takes a while: only for the first unknown ones.
            "hint": "" if known or unknown > HINTS else hint(name, list(plain.index)),
            "repeated": name in seen,
        }
        seen.add(name)
        yield Subject("member", facts, ("groups", place, "nodes", nth))


def hint(name: str, known: list[str]) -> str:
    """Return the nearest of the known names as the end of a sentence."""
    near = nearest(name, known)
    return f"; {near}" if near else ""


def group_subject(plain: Plain, group: Group, place: int) -> Subject:
    """Return a group: its replicas, nodes and devices."""
    nodes = plain.nodes_of(group)
    chips = sorted({str(plain.chip(node)["id"]) for node in nodes})
    counts = [plain.devices(node) for node in nodes] or [0]
    wanted = group.devices or (counts[0] - group.first_device if chips != ["cpu"] else 0)
    more, fewer = max(len(group.nodes), group.replicas), min(len(group.nodes), group.replicas)
    facts = {
        "name": group.name,
        "twin": any(other.name == group.name for other in plain.topology.groups[:place]),
        "inside": group_around(plain, group),
        "replicas": group.replicas,
        "nodes": len(group.nodes),
        "left_over": more % fewer,
        "chips": " and ".join(chips),
        "chip_count": len(chips),
        "per_node": replicas_on_node(plain.topology, group),
        "wanted": wanted,
        "devices_left": wanted % replicas_on_node(plain.topology, group),
        "fewest": min(counts),
        "most": min(counts) if group.devices else max(counts),
        "first_device": group.first_device,
        "last_device": group.first_device + wanted if chips != ["cpu"] else 0,
        "highest": group.first_device + wanted - 1,
    }
    return Subject("group", facts, ("groups", place))


def group_around(plain: Plain, group: Group) -> str:
    """Return the group whose servers have names that begin as this group's name, or ``""``."""
    names = (other.name for other in plain.topology.groups)
    return next((n for n in names if re.match(re.escape(n) + r"-\d+(-|$)", group.name)), "")


def flag_subjects(group: Group, place: int) -> Iterator[Subject]:
    """Yield the flags that a group adds."""
    for flag in parse_flags(tuple(group.extra)):
        places: dict[str, Path] = {"extra": ("groups", place, "extra", word_at(group, flag) or 0)}
        yield Subject("flag", {"group": group.name, "flag": flag}, ("groups", place), places)


def variable_subjects(plain: Plain) -> Iterator[Subject]:
    """Yield the variables that the file states; ``placed`` are those of each process's own."""
    placed = {
        row["set"].removeprefix("env.")
        for row in plain.catalog.table("settings")
        if row["set"].startswith("env.") and is_placed(row)
    }
    topology = plain.topology
    stated: list[tuple[str, Path, Mapping[str, str]]] = [("env", ("env",), topology.env)]
    for place, group in enumerate(topology.groups):
        stated.append((f"env of group {group.name}", ("groups", place, "env"), group.env))
    for where, path, env in stated:
        for name in env:
            facts = {
                "name": name,
                "where": where,
                "placed": name in placed,
                "secret": looks_secret(name),
            }
            yield Subject("variable", facts, (*path, name))


def path_subjects(plain: Plain) -> Iterator[Subject]:
    """Yield the paths that the file states: of weights, of keys, of files of variables."""
    topology = plain.topology
    stated: list[tuple[Path, str | None]] = [(("model_dir",), topology.model_dir)]
    stated.append((("options", "api_key_file"), topology.options.get("api_key_file")))
    for place, group in enumerate(topology.groups):
        key: Path = ("groups", place, "options", "api_key_file")
        stated.append((key, group.options.get("api_key_file")))
    variables = {r["name"] for r in plain.catalog.table("variables") if r.get("on_host")}
    envs: list[tuple[Path, Mapping[str, str]]] = [(("env",), topology.env)]
    envs += [(("groups", n, "env"), group.env) for n, group in enumerate(topology.groups)]
    stated += [((*at, name), env[name]) for at, env in envs for name in env if name in variables]
    profile = plain.chip(topology.nodes[0])["profile"]
    for path, value in stated:
        if value is not None:
            facts = {
                "key": path[-1],
                "value": value,
                "absolute": value.startswith("/"),
                "colon": ":" in value,
                "profile": profile,
            }
            yield Subject("path", facts, path)


def overlap_subjects(plain: Plain) -> Iterator[Subject]:
    """Yield two groups that want the same devices, once for both, with the first node."""
    wanted: dict[str, list[tuple[int, int, int]]] = {}
    for place, group in enumerate(plain.topology.groups):
        for node in plain.nodes_of(group):
            if plain.users[node.name] > 1 and plain.chip(node)["profile"] != "cpu":
                share = group.devices or plain.devices(node) - group.first_device
                used = share // replicas_on_node(plain.topology, group)
                last = group.first_device + used * replicas_on_node(plain.topology, group) - 1
                wanted.setdefault(node.name, []).append((group.first_device, last, place))
    told: set[tuple[int, int]] = set()
    for name, ranges in wanted.items():
        ranges.sort()
        for (_, end, one), (start, other_end, other) in pairwise(ranges):
            pair = (min(one, other), max(one, other))
            if start <= end and pair not in told and one != other:
                told.add(pair)
                yield overlap(plain, pair, name, (start, min(end, other_end)))


def overlap(plain: Plain, pair: tuple[int, int], node: str, devices: tuple[int, int]) -> Subject:
    """Return two groups on the same devices of a node."""
    groups = plain.topology.groups
    facts = {
        "group": groups[pair[1]].name,
        "other": groups[pair[0]].name,
        "node": node,
        "first": devices[0],
        "last": devices[1],
    }
    return Subject("overlap", facts, ("groups", pair[1]), also=(("groups", pair[0], "nodes"),))
