"""What deployment rules judge once every process is placed and compiled, as facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ascend_v4.catalog.load import Row
from ascend_v4.core.conditions import applies, look_up
from ascend_v4.core.connectors import foreign
from ascend_v4.core.launch import parse_flags
from ascend_v4.errors import AscendV4Error

from .lines import Path
from .place import node_devices, replica_nodes
from .router import asks_no_key, ends_of, router_node, router_row
from .subjects import Plain, Subject, address_kind, same_address
from .written import written_at

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.core.plan import Port

    from .deploy import Draft
    from .model import Group
    from .place import GroupSizes

__all__ = ["layout_subjects", "router_subject", "subjects_of_draft"]


#: The launch paths that state a port, by the port's use.
API = "OpenAI-compatible API"
PATH_OF_USE = {"KV transfer": "flag.kv-transfer-config.kv_port"}


def subjects_of_draft(plain: Plain, draft: Draft) -> Iterator[Subject]:
    """Yield what can be judged once everything is planned."""
    yield from pair_subjects(draft)
    yield from replica_subjects(draft)
    yield from memory_subjects(draft)
    yield from pool_subjects(draft)
    yield from Ports(plain, draft).subjects()


def layout_subjects(
    plain: Plain, facts: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, GroupSizes]
) -> Iterator[Subject]:
    """Yield how the replicas of each group lie on their nodes, once sizes are chosen."""
    for place, group in enumerate(plain.topology.groups):
        chosen = sizes[group.name]
        nodes = replica_nodes(plain.topology, group)[0]
        share = len(node_devices(plain.topology, group, plain.devices(nodes[0]), 0))
        cpu = facts[group.name]["profile"] == "cpu"
        local = -(-chosen.data_parallel // len(nodes))
        ranks = local * chosen.tensor_parallel
        yield Subject(
            "layout",
            {
                **facts[group.name],
                "group": group.name,
                "data_parallel_size": chosen.data_parallel,
                "tensor_parallel_size": chosen.tensor_parallel,
                "nodes_per_replica": len(nodes),
                # A rehearsal's ranks share the CPU, however many there are.
                "share": max(ranks, share) if cpu else share,
                "ranks_per_node": ranks,
                "idle": share - ranks,
                "left_over": chosen.data_parallel % len(nodes),
                "load_balancing": chosen.load_balancing,
            },
            ("groups", place),
        )


def router_subject(
    plain: Plain, facts: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, GroupSizes]
) -> Subject:
    """Return what stands before the servers."""
    topology, first = plain.topology, next(iter(facts.values()))
    node = router_node(topology, sizes)
    found, hint, silent = True, "", False
    if node is not None:
        try:
            silent = asks_no_key(router_row(topology, first, plain.catalog))
        except AscendV4Error:
            found, hint = False, router_hint(first["engine"], plain)
    host = topology.router.host
    return Subject(
        "router",
        {
            "kind": topology.router.kind,
            "connector": first.get("kv_connector", "none"),
            **foreign(first.get("kv_connector"), first, plain.catalog),
            "engine": first["engine"],
            "version": first["version"],
            "usual_connector": usual_connector(first, plain),
            "wanted": node is not None,
            "found": found,
            "hint": hint,
            "ends": ends_of(topology, sizes),
            "host": host,
            "host_kind": address_kind(host),
            "host_of": node_at(plain, host),
            "loopback": address_kind(host) == "loopback",
            "key": bool(topology.options.get("api_key_file")),
            "asks_no_key": silent,
            "guard": "behind a proxy that asks for a key" if silent else "with an API key",
            "node": node.name if node else "",
        },
        ("router",),
        {
            "connector": ("connector",),
            "kind": ("connector",) if topology.router.kind == "auto" else ("router", "kind"),
        },
    )


def router_hint(engine: str, plain: Plain) -> str:
    """Return the connectors of an engine that a router speaks, as the end of a sentence."""
    rows = plain.catalog.table("routers")
    rows = [row for row in rows if row.get("when", {}).get("engine", engine) == engine]
    known = dict.fromkeys(name for row in rows for name in row["connectors"] if name != "none")
    return f"; those with a router are {', '.join(known)}"


def usual_connector(facts: Mapping[str, Any], plain: Plain) -> str:
    """Return the connector of a deployment that asks for none."""
    unasked = {**facts, "connector": ""}
    rows = [
        row
        for row in plain.catalog.table("choices")
        if row["set"] == "kv_connector" and applies(row.get("when", {}), unasked, plain.catalog)
    ]
    return str(rows[-1]["value"]) if rows else "none"


def node_at(plain: Plain, host: str) -> str:
    """Return the name of the node with an address, or ``""``."""
    wanted = same_address(host)
    nodes = plain.topology.nodes
    return next((node.name for node in nodes if same_address(node.address) == wanted), "")


def compiled_of(draft: Draft, group: Group) -> Compiled:
    """Return the first compiled process of a group: its head."""
    return draft.compiled[group.name][0]


def pair_subjects(draft: Draft) -> Iterator[Subject]:
    """Yield prefill and decode groups, each with the first of the other side."""
    groups = list(enumerate(draft.topology.groups))
    prefill = [(place, group) for place, group in groups if group.role == "prefill"]
    decode = [(place, group) for place, group in groups if group.role == "decode"]
    pairs = [(p, d) for d in decode[:1] for p in prefill]
    pairs += [(p, d) for p in prefill[:1] for d in decode[1:]]
    for (p_place, p), (d_place, d) in pairs:
        facts = {
            "p": compiled_of(draft, p).facts,
            "d": compiled_of(draft, d).facts,
            "prefill": f"group {p.name}",
            "decode": f"group {d.name}",
        }
        sides = {"p": p_place, "d": d_place}
        yield Subject("pair", facts, ("groups", d_place), {}, (("groups", p_place),), sides)


def replica_subjects(draft: Draft) -> Iterator[Subject]:
    """Yield the replicas that transfer KV, each with the earlier one of the same engine id."""
    owner: dict[str, tuple[str, int]] = {}
    for place, group in enumerate(draft.topology.groups):
        head = compiled_of(draft, group)
        if look_up(head.facts, "flag.kv-transfer-config.engine_id") is None:
            continue
        extra = look_up(parse_flags(tuple(group.extra)), "kv-transfer-config.engine_id")
        told = False
        for placement, _ in draft.placed[group.name]:
            index = placement.name[len(group.name) + 1 :].split("-")[0]
            ident = str(extra if extra is not None else placement.engine_id)
            name = f"replica {index} of group {group.name}"
            other, at = owner.setdefault(ident, (name, place))
            if other != name and not told:
                told = True
                facts = {"group": group.name, "index": index, "engine_id": ident, "other": other}
                yield Subject("replica", facts, ("groups", place), also=(("groups", at),))


def memory_subjects(draft: Draft) -> Iterator[Subject]:
    """Yield the memory of a device that HCCL's buffers take, for each Ascend group."""
    for place, group in enumerate(draft.topology.groups):
        facts = memory_facts(compiled_of(draft, group))
        if facts:
            buffer = written_at(draft.topology, place, "env.HCCL_BUFFSIZE")
            places = {"env": buffer or ("groups", place)}
            yield Subject("memory", {"group": group.name, **facts}, ("groups", place), places)


def pool_subjects(draft: Draft) -> Iterator[Subject]:
    """Yield each group of a KV pool with the first one that hashes blocks otherwise.

    Groups of other pools (another back-end, another configuration) are not compared.
    """
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for place, group in enumerate(draft.topology.groups):
        facts = compiled_of(draft, group).facts
        if not facts.get("kv_pool"):
            continue
        seed = str(look_up(facts, "env.PYTHONHASHSEED") or "")
        config = str(look_up(facts, "env.MOONCAKE_CONFIG_PATH") or "")
        at, other = first.setdefault((facts["kv_pool"], config), (place, seed))
        paths = [written_at(draft.topology, p, "env.PYTHONHASHSEED") for p in (place, at)]
        yield Subject(
            "pool",
            {
                "group": group.name,
                "seed": seed or "none",
                "other": draft.topology.groups[at].name,
                "other_seed": other or "none",
            },
            paths[0] or ("groups", place),
            also=(paths[1] or ("groups", at),),
        )


def memory_facts(compiled: Compiled) -> dict[str, Any]:
    """Return HCCL's buffers and what weights and KV leave them, GiB a device; {} if unknown."""
    from ascend_v4.sizing.facts import UnmodelledError
    from ascend_v4.sizing.fit import size
    from ascend_v4.sizing.groups import GroupingError
    from ascend_v4.sizing.inputs import inputs_of
    from ascend_v4.sizing.report import buffers

    if compiled.facts["engine"] != "vllm-ascend":
        return {}
    try:
        sized = size(inputs_of(compiled))
    except (UnmodelledError, GroupingError, AscendV4Error):
        return {}
    taken, budget, memory = buffers(sized), sized.budget, sized.input.memory_gib
    if taken is None or budget is None or memory is None:
        return {}
    left = memory * sized.input.utilization - budget.weights.bounds.low
    return {
        "size_mb": sized.input.comm_buffer_mb,
        "buffers": taken["count"],
        "buffer_gib": taken["gib"],
        "left_gib": round(max(0.0, left), 2),
        "kv_gib": round(sized.available.high, 2) if sized.available else None,
    }


class Ports:
    """The TCP ports of every node: who takes which, and what else takes some of them."""

    def __init__(self, plain: Plain, draft: Draft) -> None:
        """Collect every process's ports by node."""
        self.plain, self.draft = plain, draft
        self.claims: dict[str, list[tuple[int, int, str, str, Path]]] = {}
        for place, group in enumerate(draft.topology.groups):
            for placement, process in draft.placed[group.name]:
                for port in process.ports:
                    self.claim(placement.node, port, process.name, self.of_group(place, port))
        if draft.router is not None:
            node, process = draft.router
            for port in process.ports:
                key = "port" if port == process.ports[0] else "metrics_port"
                self.claim(node.name, port, "the router", ("router", key))

    def of_group(self, place: int, port: Port) -> Path:
        """Return where the file states a port of a group, the group's key where it doesn't."""
        stated = written_at(self.draft.topology, place, PATH_OF_USE.get(port.use, ""))
        return stated or ("groups", place, "port" if port.use == API else port.use)

    def claim(self, node: str, port: Port, process: str, path: Path) -> None:
        """Note that a process listens on a port, or on a range of them."""
        first, last = port.reserved_range or (port.port, port.port)
        self.claims.setdefault(node, []).append((first, last, process, port.use, path))

    def subjects(self) -> Iterator[Subject]:
        """Yield asked ports that weren't got, collisions, and ports that others take."""
        yield from self.asked()
        told: set[tuple[Any, ...]] = set()
        for name, claims in self.claims.items():
            claims.sort(key=lambda claim: claim[:2])
            node = self.plain.topology.nodes[self.plain.index[name]]
            chip, devices = self.plain.chip(node), self.plain.devices(node)
            held = claims[0]
            for nth, claim in enumerate(claims):
                if nth and claim[0] <= held[1]:
                    yield from once(told, collision(name, held, claim))
                if claim[1] > held[1] or not nth:
                    held = claim
                for subject in self.reserved(name, claim, chip, devices):
                    yield from once(told, subject)

    def reserved(
        self, node: str, claim: tuple[int, int, str, str, Path], chip: Row, devices: int
    ) -> Iterator[Subject]:
        """Yield a claim with each range that something else takes, and where it ends."""
        first, last, process, use, path = claim
        facts = {"node": node, "port": first, "last": last, "process": process, "use": use}
        if last > 65535:
            yield Subject("port", facts, path)
        for row in self.plain.catalog.table("reserved_ports"):
            start = row["first"]
            end = start + row.get("count", 0) + row.get("per_device", 0) * devices - 1
            if chip["profile"] in row["profile"] and first <= end and last >= start:
                more = {
                    "reserved": row["id"],
                    "reserved_first": start,
                    "reserved_last": end,
                    "free": end + 1,
                    "says": row["says"],
                    "transfers": self.transfers(),
                }
                yield Subject("port", facts | more, path)

    def transfers(self) -> bool:
        """Whether KV moves between processes, so that Mooncake listens."""
        found = [compiled_of(self.draft, group).facts for group in self.draft.topology.groups]
        return any(look_up(facts, "flag.kv-transfer-config") for facts in found)

    def asked(self) -> Iterator[Subject]:
        """Yield each group that didn't get the port it asked for, with who has it."""
        for place, group in enumerate(self.draft.topology.groups):
            if group.port is None:
                continue
            nth: dict[str, int] = {}
            for placement, _ in self.draft.placed[group.name]:
                if placement.headless:
                    continue
                wanted = group.port + nth.setdefault(placement.node, 0)
                nth[placement.node] += 1
                if placement.port != wanted:
                    yield self.lost(group, place, placement.node, wanted, placement.port)
                    break

    def lost(self, group: Group, place: int, node: str, wanted: int, got: int) -> Subject:
        """Return a port that a group asked for and somebody else has."""
        holders = [c for c in self.claims[node] if c[0] <= wanted <= c[1]]
        holder = holders[0] if holders else (0, 0, "another replica", "", ())
        facts = {
            "group": group.name,
            "node": node,
            "asked": wanted,
            "wanted": wanted,
            "got": got,
            "holder": holder[2],
            "use": holder[3],
        }
        return Subject("asked-port", facts, ("groups", place), also=(holder[4],))


def once(told: set[tuple[Any, ...]], subject: Subject) -> Iterator[Subject]:
    """Yield a subject unless the same cause was told of another node or process."""
    facts = subject.facts
    groups = frozenset(
        name.rsplit("-", 2)[0] for name in (facts["process"], facts.get("other", ""))
    )
    key = (groups, facts["use"], facts.get("reserved"), facts["last"] > 65535)
    if key not in told:
        told.add(key)
        yield subject


def collision(
    node: str,
    held: tuple[int, int, str, str, Path],
    claim: tuple[int, int, str, str, Path],
) -> Subject:
    """Return two claims on one port."""
    facts = {
        "node": node,
        "port": claim[0],
        "last": claim[1],
        "process": claim[2],
        "use": claim[3],
        "other": held[2],
        "other_use": held[3],
    }
    return Subject("port", facts, claim[4], also=(held[4],))
