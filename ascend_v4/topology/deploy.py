"""From a topology and the catalog to a plan for each node.

A group is compiled once for each shape of process it has (head, headless, rank 0, other
ranks), rules and all; the other processes of a shape differ only in what a placement
inserts, so a thousand nodes cost little more than ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.compiler import Compiled, choices_of, compile_plan, relaunch
from ascend_v4.core.conditions import applies
from ascend_v4.core.finding import worst_first
from ascend_v4.core.launch import Launch
from ascend_v4.core.placement import Placement, inserted, is_placed
from ascend_v4.core.plan import LaunchPlan, Port, Process
from ascend_v4.core.process import build_process
from ascend_v4.core.request import OPTION_NAMES, LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode

from .deployment import Deployment, NodePlan
from .model import Group, Node, Topology
from .place import GroupSizes, PortBook, Sides, place_group, replica_nodes
from .router import asks_no_key, router_node, router_ports, router_process, router_row

__all__ = ["Draft", "chosen", "deploy", "drafted", "gathered", "request_of"]


def request_of(topology: Topology, group: Group) -> LaunchRequest:
    """Return what a group asks for; the group's options go over the topology's.

    Raises AscendV4Error (usage) for an option that is not a launch option.
    """
    options: dict[str, Any] = {**topology.options, **group.options}
    unknown = sorted(set(options) - set(OPTION_NAMES))
    if unknown:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-option",
            f"group {group.name}: {', '.join(unknown)} is not a launch option",
            "ascend-v4 serve --help",
        )
    named = {
        "profile": topology.profile,
        "chip": topology.node(group.nodes[0]).chip or topology.chip,
        "engine_version": topology.engine_version,
        "image": topology.image,
        "model": topology.model,
        "model_dir": topology.model_dir,
        "data_parallel_size": group.data_parallel_size,
        "tensor_parallel_size": group.tensor_parallel_size,
    }
    asked = {**options, **{name: value for name, value in named.items() if value is not None}}
    return LaunchRequest(
        **asked,
        extra=tuple(group.extra),
        env=topology.env_of(group),
        allow_unvalidated=topology.allow_unvalidated,
        origins=dict.fromkeys(asked, "file"),
    )


@dataclass
class Draft:
    """A deployment while it is planned."""

    topology: Topology
    catalog: Catalog
    models: str
    book: PortBook = field(default_factory=PortBook)
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    plans: dict[str, LaunchPlan] = field(default_factory=dict)
    processes: dict[str, list[Process]] = field(default_factory=dict)
    placements: list[Placement] = field(default_factory=list)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    placed: dict[str, list[tuple[Placement, Process]]] = field(default_factory=dict)
    compiled: dict[str, list[Compiled]] = field(default_factory=dict)
    router: tuple[Node, Process] | None = None

    def devices(self) -> dict[str, int]:
        """Return the logical devices of each node."""
        found = {}
        for node in self.topology.nodes:
            chip = self.catalog.chip(node.chip or self.topology.chip or self.default_chip())
            found[node.name] = node.devices or int(chip["devices_per_node"])
        return found

    def default_chip(self) -> str:
        """Return the chip of a topology that names none: its profile's usual one."""
        from ascend_v4.core.resolve import ASSUMED_CHIP

        return ASSUMED_CHIP.get(self.topology.profile or "", "a3")

    def choose(self, group: Group, devices: Mapping[str, int]) -> Mapping[str, Any]:
        """Return the facts of a group once every option is chosen."""
        nodes = replica_nodes(self.topology, group)[0]
        whole = sum(group.devices or devices[n.name] - group.first_device for n in nodes)
        sharing = max(1, -(-group.replicas // len(group.nodes)))
        kind = "multi-node-dp" if len(nodes) > 1 else "single-node"
        placed: dict[str, Any] = {
            "topology": "pd-disaggregated" if self.topology.disaggregated else kind,
            "role": group.role,
            "nodes": len(nodes),
            "replica_nodes": len(nodes),
            "devices": whole // sharing,
            **asked_transfer(self.topology),
        }
        request = request_of(self.topology, group)
        if group.devices or sharing > 1 or any(node.devices for node in nodes):
            # A part of a node was asked for, as with --devices: the layout is made to fit.
            request = replace(request, devices=placed["devices"])
        return choices_of(request, self.catalog, self.models, placed)


def asked_transfer(topology: Topology) -> dict[str, Any]:
    """Return how KV is to move between processes, as far as the file says it."""
    pool = topology.kv_pool.backend if topology.kv_pool else ""
    return {"connector": topology.connector or "", "kv_pool": pool}


def sizes_of(group: Group, facts: Mapping[str, Any]) -> GroupSizes:
    """Return the sizes that were chosen for a group."""
    return GroupSizes(
        int(facts["data_parallel_size"]),
        int(facts["tensor_parallel_size"]),
        group.load_balancing or facts["load_balancing"],
    )


def deploy(topology: Topology, catalog: Catalog, models: str = "models") -> Deployment:
    """Return the plan of every node, unchecked as a whole; ``check.planned`` checks it too.

    ``models`` is the directory of all weights where the topology names none. Raises
    AscendV4Error (usage) for words that the catalog doesn't know; a broken rule is a
    note, see ``core.compiler.refuse``.
    """
    return gathered(drafted(topology, catalog, models))


def drafted(topology: Topology, catalog: Catalog, models: str = "models") -> Draft:
    """Return every process of a topology, placed and compiled; raises as :func:`deploy`."""
    draft = Draft(topology, catalog, models)
    devices = draft.devices()
    draft.facts, sizes = chosen(draft)
    sides = Sides(side(topology, sizes, "prefill"), side(topology, sizes, "decode"))
    router_at = router_node(topology, sizes)
    ports: tuple[Port, ...] = ()
    if router_at is not None:
        facts = next(iter(draft.facts.values()))
        ports = router_ports(topology, facts, devices[router_at.name], catalog)
        draft.book.taken |= {(router_at.name, port.port) for port in ports}
    engine_id = 0
    for group in topology.groups:
        ids = {group.name: engine_id}
        size = sizes[group.name]
        used = stated_ports(draft.facts[group.name], size, catalog)
        placed = place_group(topology, group, size, sides, devices, draft.book, ids, used)
        engine_id += group.replicas
        plan_group(draft, group, size, placed)
    if router_at is not None:
        add_router(draft, router_at, draft.facts, ports)
    return draft


def stated_ports(facts: Mapping[str, Any], sizes: GroupSizes, catalog: Catalog) -> set[str]:
    """Return which facts the settings of a group insert, so which ports its launches state."""
    known = {
        **facts,
        "data_parallel_size": sizes.data_parallel,
        "load_balancing": sizes.load_balancing,
    }
    rows = (r for r in catalog.table("settings") if applies(r.get("when", {}), known, catalog))
    return {name for row in rows for name in inserted(row)}


def chosen(draft: Draft) -> tuple[dict[str, Mapping[str, Any]], dict[str, GroupSizes]]:
    """Return the facts and the parallel sizes of each group, before anything is placed."""
    devices = draft.devices()
    groups = draft.topology.groups
    facts = {group.name: draft.choose(group, devices) for group in groups}
    return facts, {group.name: sizes_of(group, facts[group.name]) for group in groups}


def side(topology: Topology, sizes: Mapping[str, GroupSizes], role: str) -> GroupSizes | None:
    """Return the sizes of the first group of a role."""
    return next((sizes[group.name] for group in topology.groups if group.role == role), None)


def shape_of(placement: Placement) -> tuple[Any, ...]:
    """Return what decides which rows apply to a process."""
    first = placement.data_parallel_start_rank == 0
    rank = placement.data_parallel_rank
    return (placement.headless, first, rank is None, rank == 0, len(placement.node_devices))


@dataclass(frozen=True)
class Shape:
    """A compiled process that others of its shape are moved from, and what moves."""

    compiled: Compiled
    moving: dict[str, Row]

    @property
    def process(self) -> Process:
        """Return the compiled process itself."""
        return self.compiled.plan.processes[0]


def plan_group(draft: Draft, group: Group, sizes: GroupSizes, placed: list[Placement]) -> None:
    """Compile a group's processes into the draft."""
    request = replace(
        request_of(draft.topology, group),
        data_parallel_size=sizes.data_parallel,
        tensor_parallel_size=sizes.tensor_parallel,
    )
    shapes: dict[tuple[Any, ...], Shape] = {}
    for placement in placed:
        key = shape_of(placement)
        if key in shapes:
            process = moved(shapes[key], placement, request, draft.catalog)
        else:
            shapes[key] = compiled_shape(draft, group, request, placement)
            process = shapes[key].process
        draft.placements.append(placement)
        draft.placed.setdefault(group.name, []).append((placement, process))
        draft.processes.setdefault(placement.node, []).append(process)
        add_notes(draft, placement.node, shapes[key].compiled.plan)


def compiled_shape(
    draft: Draft, group: Group, request: LaunchRequest, placement: Placement
) -> Shape:
    """Return a shape of a group, compiled for the first process that has it."""
    known = asked_transfer(draft.topology)
    compiled = compile_plan(request, draft.catalog, draft.models, placement, known)
    reasons = draft.rows.setdefault(group.name, {})
    for path, row in compiled.rows.items():
        # A row that takes a flag away (a headless node's) is no reason for the head's.
        if path not in reasons or row["value"] is not None:
            reasons[path] = row
    reasons |= stated_reasons(draft.topology, group)
    draft.compiled.setdefault(group.name, []).append(compiled)
    return Shape(compiled, {path: row for path, row in compiled.rows.items() if is_placed(row)})


def stated_reasons(topology: Topology, group: Group) -> dict[str, Row]:
    """Return why a group has the variables that the file states, as rows that renderers quote."""
    return {
        f"env.{name}": {
            "set": f"env.{name}",
            "value": value,
            "reason": "from env of the topology",
            "source": f"group {group.name}" if name in group.env else "all groups",
        }
        for name, value in topology.env_of(group).items()
    }


def add_notes(draft: Draft, node: str, plan: LaunchPlan) -> None:
    """Make a plan that of its node, or add its notes to those of the node's plan."""
    there = draft.plans.setdefault(node, plan)
    if there.notes != plan.notes:
        notes = dict.fromkeys([*there.notes, *plan.notes])
        draft.plans[node] = replace(there, notes=tuple(worst_first(notes)))


def moved(shape: Shape, placement: Placement, request: LaunchRequest, catalog: Catalog) -> Process:
    """Return a compiled process as it is on another node or rank."""
    compiled = shape.compiled
    facts = compiled.facts | placement.facts()
    launch = Launch(
        copied(compiled.launch.env), copied(compiled.launch.flags), compiled.launch.model
    )
    relaunch(launch, facts, shape.moving, request.extra)
    return build_process(launch, facts, request, catalog, placement, shape.process.unset)


def copied(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of nested dictionaries; the lists in them are never changed."""
    return {key: copied(value) if isinstance(value, dict) else value for key, value in tree.items()}


def add_router(
    draft: Draft, node: Node, chosen: Mapping[str, Mapping[str, Any]], ports: tuple[Port, ...]
) -> None:
    """Add what clients talk to, on its node."""
    facts = next(iter(chosen.values()))
    plan = next(iter(draft.plans.values()))
    deadline = max(p.deadline_s for processes in draft.processes.values() for p in processes)
    process = router_process(
        draft.topology, node, facts, draft.placements, ports, deadline, draft.catalog
    )
    draft.router = (node, process)
    draft.plans.setdefault(node.name, plan)
    draft.processes.setdefault(node.name, []).append(process)


def gathered(draft: Draft) -> Deployment:
    """Return the deployment with the plans of its nodes, in the order of the file."""
    topology = draft.topology
    nodes = tuple(
        NodePlan(node, node_plan(draft, node))
        for node in topology.nodes
        if node.name in draft.processes
    )
    found = Deployment(topology, nodes, "", rows=draft.rows)
    ends = [process for _, process in found.processes() if process.ready]
    last = next((process for process in ends if process.role == "router"), None)
    chosen = last or ends[0]
    return replace(
        found,
        endpoint=chosen.ready.url if chosen.ready else "",
        open_router=draft.router is not None and asks_no_key(router_of(draft)),
    )


def router_of(draft: Draft) -> Row:
    """Return the catalog row of the draft's router."""
    return router_row(draft.topology, next(iter(draft.facts.values())), draft.catalog)


def node_plan(draft: Draft, node: Node) -> LaunchPlan:
    """Return the launch plan of one node."""
    plan = draft.plans[node.name]
    return replace(plan, processes=tuple(draft.processes[node.name]))
