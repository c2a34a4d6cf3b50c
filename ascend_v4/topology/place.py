"""Deal a topology out: which process stands on which node, with which ranks and ports.

Pure: from the file and the parallel sizes of its groups to placements.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ascend_v4.core.placement import Kind, LoadBalancing, Placement

from .model import Group, Node, Topology

__all__ = ["GroupSizes", "PortBook", "place_group", "replica_nodes"]

#: First ports, as the published launches have them: servers behind a router, DP RPC, KV.
#: https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md
ALONE_PORT = 8000
BEHIND_ROUTER_PORT = 7100
RPC_PORT = 12321
#: Mooncake's AscendDirectTransport takes random ports from 20000 to 20000 + 1000 for each
#: NPU, so KV ports start above the range of a 16-die node
#: (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/user_guide/feature_guide/kv_pool.md).
KV_PORT = 36000
KV_STEP = 100
#: https://docs.vllm.ai/en/latest/features/mooncake_connector_usage/ and
#: https://docs.vllm.ai/en/latest/features/nixl_connector_usage/
BOOTSTRAP_PORT = 8998
SIDE_CHANNEL_PORT = 5600


@dataclass(frozen=True)
class GroupSizes:
    """The parallel sizes of a group's replicas and how requests reach their ranks."""

    data_parallel: int
    tensor_parallel: int
    load_balancing: LoadBalancing


@dataclass
class PortBook:
    """Hands out each port of a node once, from a first number upwards."""

    taken: set[tuple[str, int]] = field(default_factory=set)
    #: Where the last search for the same ended: nothing below is free, for no port is given back.
    ends: dict[tuple[object, ...], int] = field(default_factory=dict)

    def take(self, nodes: Sequence[str], first: int, width: int = 1, step: int = 1) -> int:
        """Return the first of ``width`` ports that are free on every one of the nodes."""
        search = (*nodes, first, width, step)
        port = self.ends.get(search, first)
        while any((node, port + n) in self.taken for node in nodes for n in range(width)):
            port += step
        self.taken |= {(node, port + n) for node in nodes for n in range(width)}
        self.ends[search] = port
        return port


def replica_nodes(topology: Topology, group: Group) -> list[list[Node]]:
    """Return the nodes of each replica: the group's nodes, dealt out in order.

    With fewer nodes than replicas, several replicas share a node.
    """
    nodes = [topology.node(name) for name in group.nodes]
    if len(nodes) < group.replicas:
        share = -(-group.replicas // len(nodes))
        return [[nodes[index // share]] for index in range(group.replicas)]
    size = len(nodes) // group.replicas
    return [nodes[index * size : (index + 1) * size] for index in range(group.replicas)]


def replicas_on_node(topology: Topology, group: Group) -> int:
    """Return how many replicas of the group share one node."""
    return max(1, -(-group.replicas // len(group.nodes)))


def node_devices(topology: Topology, group: Group, per_node: int, nth: int) -> tuple[int, ...]:
    """Return the device ids of the group's ``nth`` replica on a node."""
    share = (group.devices or per_node - group.first_device) // replicas_on_node(topology, group)
    first = group.first_device + share * nth
    return tuple(range(first, first + share))


@dataclass(frozen=True)
class Sides:
    """Both sides' parallel sizes, as every connector wants to know them; 0 where none."""

    prefill: GroupSizes | None = None
    decode: GroupSizes | None = None

    def facts(self) -> dict[str, int]:
        """Return the sizes under the names of a placement."""
        found = {}
        for name, side in (("prefill", self.prefill), ("decode", self.decode)):
            found[f"{name}_tp"] = side.tensor_parallel if side else 0
            found[f"{name}_dp"] = side.data_parallel if side else 0
        return found


def place_group(
    topology: Topology,
    group: Group,
    sizes: GroupSizes,
    sides: Sides,
    devices: Mapping[str, int],
    book: PortBook,
    engine_ids: Mapping[str, int],
    ports: Collection[str],
) -> list[Placement]:
    """Return the placement of every server process of a group.

    ``devices`` tells each node's logical devices, ``engine_ids`` the first engine id of
    each group, ``ports`` which of the ports beside the API's its launches state.
    """
    found = []
    for index, nodes in enumerate(replica_nodes(topology, group)):
        nth = index % replicas_on_node(topology, group)
        shared = Replica(topology, group, sizes, sides, nodes, index, nth, devices, book, ports)
        found += shared.placements(engine_ids.get(group.name, 0) + index)
    return found


@dataclass(frozen=True)
class Replica:
    """One replica of a group while it is placed."""

    topology: Topology
    group: Group
    sizes: GroupSizes
    sides: Sides
    nodes: list[Node]
    index: int
    nth: int
    devices: Mapping[str, int]
    book: PortBook
    ports: Collection[str]

    @cached_property
    def all_devices(self) -> int:
        """Return the logical devices of the replica over all of its nodes."""
        counts = (self.devices[node.name] for node in self.nodes)
        return sum(
            len(node_devices(self.topology, self.group, count, self.nth)) for count in counts
        )

    def placements(self, engine_id: int) -> list[Placement]:
        """Return the replica's processes, the head first."""
        shared = self.shared_ports()
        external = self.sizes.load_balancing == "external"
        local = max(1, self.sizes.data_parallel // len(self.nodes))
        made = []
        for place, node in enumerate(self.nodes):
            ids = node_devices(self.topology, self.group, self.devices[node.name], self.nth)
            for rank in range(local) if external else (None,):
                first = place * local
                made.append(self.placement(node, place, ids, rank, first, local, shared, engine_id))
        return made

    def placement(
        self,
        node: Node,
        place: int,
        ids: tuple[int, ...],
        rank: int | None,
        first: int,
        local: int,
        shared: Mapping[str, int],
        engine_id: int,
    ) -> Placement:
        """Return the process of one node, or of one local rank of it."""
        sizes, group = self.sizes, self.group
        internal = sizes.load_balancing == "internal"
        headless = internal and place > 0
        if rank is not None:
            width = sizes.tensor_parallel
            ids = ids[rank * width : (rank + 1) * width]
        mark = f"r{first + rank}" if rank is not None else str(place)
        return Placement(
            name=f"{group.name}-{self.index}-{mark}",
            node=node.name,
            topology=self.kind(),
            role=group.role,
            load_balancing=sizes.load_balancing,
            node_address=node.address,
            interface=node.interface,
            head_address=self.nodes[0].address,
            headless=headless,
            replica_nodes=len(self.nodes),
            replica_devices=self.all_devices,
            node_devices=ids,
            data_parallel_size_local=local,
            data_parallel_start_rank=first,
            data_parallel_rank=None if rank is None else first + rank,
            port=0 if headless else self.api_port(node),
            engine_id=str(engine_id),
            kv_offset=(first + (rank or 0)) * sizes.tensor_parallel,
            **({} if internal else self.bootstrap_port(node)),
            **shared,
            **self.sides.facts(),
        )

    def kind(self) -> Kind:
        """Return the topology's name as the catalog has it."""
        if self.topology.disaggregated:
            return "pd-disaggregated"
        return "multi-node-dp" if len(self.nodes) > 1 else "single-node"

    def api_port(self, node: Node) -> int:
        """Return a free API port of the node, the group's own first where it names one."""
        alone = self.topology.router.kind == "none" or not needs_router(self.topology)
        first = self.group.port or (ALONE_PORT if alone else BEHIND_ROUTER_PORT)
        return self.book.take([node.name], first)

    def shared_ports(self) -> dict[str, int]:
        """Return the ports that a replica states once: the engine adds each rank to them."""
        names, width = [node.name for node in self.nodes], self.sizes.data_parallel
        found = {}
        if "rpc_port" in self.ports:
            found["rpc_port"] = self.book.take(names[:1], RPC_PORT)
        if "kv_port" in self.ports:
            ranks = width * self.sizes.tensor_parallel
            found["kv_port"] = self.book.take(names, KV_PORT, ranks, KV_STEP)
        if "side_channel_port" in self.ports:
            found["side_channel_port"] = self.book.take(names, SIDE_CHANNEL_PORT, width)
        if self.sizes.load_balancing == "internal":
            # Rank 0 listens for all; the other nodes of the replica ask it there.
            found |= self.bootstrap_port(self.nodes[0])
        return found

    def bootstrap_port(self, node: Node) -> dict[str, int]:
        """Return a port of the node where the router and peers ask for engine ids, if any is."""
        if "bootstrap_port" not in self.ports:
            return {}
        return {"bootstrap_port": self.book.take([node.name], BOOTSTRAP_PORT)}


def needs_router(topology: Topology) -> bool:
    """Whether requests have more than one place to go to."""
    external = any(group.load_balancing in ("external", "hybrid") for group in topology.groups)
    replicas = sum(group.replicas for group in topology.groups)
    return topology.disaggregated or external or replicas > 1
