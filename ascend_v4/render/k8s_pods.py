"""From a topology's nodes to pod templates: what differs between pods becomes shell text.

All pods of a template share one script, so addresses come from the pod (``POD_IP``), the
leader (``HEAD_IP``) and ranks from the pod's place in its group (``LWS_WORKER_INDEX``,
``LWS_GROUP_INDEX``). The deployment is planned again on pods that own their devices from
0 on; each value that then differs between pods is fitted to a line over both indices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ascend_v4.catalog.load import catalog
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.model import Group, Node, Topology
from ascend_v4.topology.place import replica_nodes

from .common import argv_lines, flag_reason, quote, reason, resource_name, unexpanded
from .script import Entry, Part
from .targets import RenderOptions

__all__ = ["PodGroup", "Pods", "api_ports", "entries_of", "pods_of", "port_names"]

#: Stand for the pod's own and the leader's address while words are compared.
OWN, HEAD = "\ue000", "\ue001"
ROUTER = "router"

#: (worker index, group index) of a pod.
Place = tuple[int, int]


@dataclass(frozen=True)
class PodGroup:
    """The pods of one group of the topology; ``names`` are their DNS names by place.

    ``plan`` is its first pod's: chip, image and weights, which may be other than a
    neighbour's.
    """

    group: Group
    name: str
    plan: LaunchPlan
    size: int
    devices: int
    #: Whether a pod has its node for itself, and so may use the node's network.
    whole_node: bool
    names: Mapping[Place, str]
    processes: Mapping[Place, tuple[Process, ...]]

    def heads(self) -> dict[Place, tuple[Process, ...]]:
        """Return the processes of every leader."""
        return {place: found for place, found in self.processes.items() if place[0] == 0}

    def workers(self) -> dict[Place, tuple[Process, ...]]:
        """Return the processes of every other pod."""
        return {place: found for place, found in self.processes.items() if place[0] > 0}


@dataclass(frozen=True)
class Pods:
    """A deployment as pods: its groups, its router, and the plan they come from."""

    deployment: Deployment
    groups: tuple[PodGroup, ...]
    router: Process | None


@dataclass(frozen=True)
class Draft:
    """A group while its pods are named."""

    group: Group
    name: str
    replicas: list[list[Node]]
    devices: int
    whole_node: bool


def api_ports(group: PodGroup) -> list[int]:
    """Return the API ports of a group's pods."""
    first = next(iter(group.heads().values()))
    return [process.ports[0].port for process in first if process.ready]


def port_names(group: PodGroup) -> list[str]:
    """Return the names of a pod's API ports."""
    return [f"api-{nth}" for nth in range(len(api_ports(group)))]


def pods_of(deployment: Deployment, options: RenderOptions) -> Pods:
    """Return the pods of a deployment.

    Raises AscendV4Error (refused) where the pods of a group can't share a template.
    """
    topology = deployment.topology
    drafts = [drafted(deployment, group) for group in topology.groups]
    names: dict[str, dict[Place, str]] = {}
    nodes: list[Node] = []
    groups: list[Group] = []
    for draft in drafts:
        names[draft.group.name], members = {}, []
        for index, replica in enumerate(draft.replicas):
            for worker, node in enumerate(replica):
                host = dns_name(draft.name, index, worker, options.namespace)
                members.append(pod_node(node, host, len(nodes), draft))
                nodes.append(members[-1])
                names[draft.group.name][worker, index] = host
        weights = deployment.node_plan(draft.replicas[0][0].name).plan.model_path
        groups.append(pod_group(draft.group, members, weights))
    planned = deploy(pod_topology(deployment, nodes, groups, options), catalog())
    plans = {each.node.address: each.plan for each in planned.nodes}
    made = [
        PodGroup(
            draft.group, draft.name, plans[names[draft.group.name][0, 0]], len(draft.replicas[0]),
            draft.devices, draft.whole_node, names[draft.group.name],
            servers_at(plans, names[draft.group.name]),
        )
        for draft in drafts
    ]  # fmt: skip
    router = planned.router()
    return Pods(planned, tuple(made), router[1] if router else None)


def dns_name(name: str, index: int, worker: int, namespace: str) -> str:
    """Return a pod's name in DNS, as LeaderWorkerSet makes it.

    https://github.com/kubernetes-sigs/lws/blob/v0.7.0/api/leaderworkerset/v1/leaderworkerset_types.go
    """
    pod = f"{name}-{index}-{worker}" if worker else f"{name}-{index}"
    return f"{pod}.{name}.{namespace}.svc"


def drafted(deployment: Deployment, group: Group) -> Draft:
    """Return a group with its replicas' nodes and the devices of each pod."""
    replicas = replica_nodes(deployment.topology, group)
    first = replicas[0][0]
    mine = [
        process
        for node, process in deployment.processes()
        if node.name == first.name and process.name.startswith(f"{group.name}-0-")
    ]
    servers = [
        process
        for node, process in deployment.processes()
        if node.name == first.name and process.role != "router"
    ]
    devices = {device for process in mine for device in process.devices}
    name = resource_name(deployment.topology.name, group.name)
    return Draft(group, name, replicas, len(devices), len(servers) == len(mine))


def pod_node(node: Node, host: str, nth: int, draft: Draft) -> Node:
    """Return a pod as a node of its own, which has just the pod's devices.

    Raises AscendV4Error (refused) where nodes of the group differ in what a template says.
    """
    first = draft.replicas[0][0]
    if draft.whole_node and node.interface != first.interface:
        raise AscendV4Error(
            ExitCode.REFUSED,
            "not-a-template",
            f"group {draft.group.name}: {first.name} has interface {first.interface or 'unset'},"
            f" {node.name} {node.interface or 'unset'}; pods of a group share one template",
            "put nodes with the same interface name into a group",
        )
    interface = node.interface if draft.whole_node else "eth0" if node.interface else ""
    return Node(
        name=f"pod-{nth}",
        address=host,
        chip=node.chip,
        devices=draft.devices or None,
        interface=interface,
    )


def pod_group(group: Group, members: Sequence[Node], weights: str) -> Group:
    """Return the group on its pods, its weights where the nodes have them."""
    names = [node.name for node in members]
    options = {**group.options, "model_dir": weights}
    update = {"nodes": names, "first_device": 0, "devices": None, "options": options}
    return group.model_copy(update=update)


def pod_topology(
    deployment: Deployment, nodes: list[Node], groups: list[Group], options: RenderOptions
) -> Topology:
    """Return the topology on pods; the router has a pod of its own.

    A Secret that was named is an API key as a file would be.
    """
    topology = deployment.topology
    key = {"api_key_file": options.api_key_secret} if options.api_key_secret else {}
    apart = Node(name=ROUTER, address=ROUTER, chip=nodes[0].chip)
    router = topology.router.model_copy(update={"node": ROUTER, "host": "0.0.0.0"})
    update = {
        "nodes": [*nodes, apart],
        "groups": groups,
        "options": {**topology.options, **key},
        "router": router,
        "model_dir": None,
    }
    # Values that a model keeps once computed would be those of the nodes.
    fresh = {key: value for key, value in topology.__dict__.items() if key in fields(topology)}
    return Topology.model_construct(**{**fresh, **update})


def fields(topology: Topology) -> frozenset[str]:
    """Return the names of a topology's fields."""
    return frozenset(type(topology).model_fields)


def servers_at(
    plans: Mapping[str, LaunchPlan], names: Mapping[Place, str]
) -> dict[Place, tuple[Process, ...]]:
    """Return each pod's processes, in order, with marks for the pod's and its leader's address."""
    return {
        place: tuple(
            marked(process, host, names[0, place[1]])
            for process in plans[host].processes
            if process.role != "router"
        )
        for place, host in names.items()
    }


def marked(process: Process, own: str, head: str) -> Process:
    """Return a process with marks where the two addresses stood."""

    def mark(word: str) -> str:
        return word.replace(own, OWN).replace(head, HEAD)

    from dataclasses import replace

    env = {name: mark(value) for name, value in process.env.items()}
    return replace(process, argv=tuple(map(mark, process.argv)), env=env)


def entries_of(
    pods: Pods, group: PodGroup, places: Mapping[Place, tuple[Process, ...]]
) -> list[Entry]:
    """Return the processes of a template, each value fitting every one of its pods.

    Raises AscendV4Error (refused) for a value that follows no line over the indices.
    """
    columns = zip(*places.values(), strict=True)
    return [
        entry_of(pods, group, nth, dict(zip(places, column, strict=True)))
        for nth, column in enumerate(columns)
    ]


def entry_of(pods: Pods, group: PodGroup, nth: int, at: Mapping[Place, Process]) -> Entry:
    """Return the ``nth`` process of a template."""
    first = next(iter(at.values()))

    def text(values: Sequence[str]) -> str:
        return fitted(dict(zip(at, values, strict=True)), group.group.name)

    program, *flags = list(zip(*(argv_lines(process) for process in at.values()), strict=True))
    return Entry(
        name=f"{group.group.name}-{nth}",
        group=group.group.name,
        program=tuple(text(words) for words in zip(*program, strict=True)),
        env=tuple(
            Part(
                (text([process.env[name] for process in at.values()]),),
                reason(pods.deployment, first, f"env.{name}"),
                name,
            )
            for name in first.env
        ),
        unset=first.unset,
        sections=(
            tuple(
                Part(
                    tuple(text(words) for words in zip(*lines, strict=True)),
                    flag_reason(pods.deployment, first, lines[0]),
                )
                for lines in flags
            ),
        ),
        note=f"{first.role}, {len(first.devices)} devices" if first.devices else first.role,
    )


def fitted(values: Mapping[Place, str], group: str) -> str:
    """Return shell text that gives each pod its value."""
    pieces = {place: re.split(r"(\d+)", value) for place, value in values.items()}
    first = next(iter(pieces.values()))
    if len(set(values.values())) == 1:
        return shell(["".join(first)])
    if any(len(each) != len(first) or each[::2] != first[::2] for each in pieces.values()):
        raise not_a_template(group, values)
    words: list[str] = []
    for nth, piece in enumerate(first):
        if nth % 2 == 0:
            words.append(piece)
            continue
        term = line({place: int(each[nth]) for place, each in pieces.items()})
        if term is None:
            raise not_a_template(group, values)
        words.append(term if term.startswith("$") else piece)
    return shell(words)


def not_a_template(group: str, values: Mapping[Place, str]) -> AscendV4Error:
    """Return the refusal of values that no template can hold."""
    shown = ", ".join(sorted(set(values.values()))[:4])
    return AscendV4Error(
        ExitCode.REFUSED,
        "not-a-template",
        f"group {group}: pods share one template, and these values follow no rule: {shown}",
        "split the group, or render docker or systemd",
    )


def line(points: Mapping[Place, int]) -> str | None:
    """Return the number, or shell arithmetic over both indices; None where no line fits."""
    (worker, index), value = next(iter(points.items()))
    by_worker = slope({p[0]: v for p, v in points.items() if p[1] == index}, worker)
    by_index = slope({p[1]: v for p, v in points.items() if p[0] == worker}, index)
    base = value - by_worker * worker - by_index * index
    for (w, g), found in points.items():
        if base + by_worker * w + by_index * g != found:
            return None
    terms = [str(base)] if base or not (by_worker or by_index) else []
    for step, variable in ((by_worker, "LWS_WORKER_INDEX"), (by_index, "LWS_GROUP_INDEX")):
        if step:
            terms.append(variable if step == 1 else f"{step} * {variable}")
    return terms[0] if not (by_worker or by_index) else f"$(({' + '.join(terms)}))"


def slope(points: Mapping[int, int], start: int) -> int:
    """Return the step from ``start`` to the next point; 0 where there is none."""
    other = next((at for at in points if at != start), None)
    return 0 if other is None else (points[other] - points[start]) // (other - start)


def shell(pieces: Sequence[str]) -> str:
    """Return pieces as one shell word: literals quoted, arithmetic and addresses expanded."""
    words, literal = [], ""
    for piece in pieces:
        for part in [piece] if piece.startswith("$((") else re.split(f"([{OWN}{HEAD}])", piece):
            if part in (OWN, HEAD) or part.startswith("$(("):
                words += [unexpanded(quote(literal))] if literal else []
                literal = ""
                words.append({OWN: '"$POD_IP"', HEAD: '"$HEAD_IP"'}.get(part) or f'"{part}"')
            else:
                literal += part
    return "".join([*words, unexpanded(quote(literal))] if literal or not words else words)
