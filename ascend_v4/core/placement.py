"""Where one server process of a deployment stands: its node, its ranks, its peers.

A single-node launch has no placement. With one, its fields become facts, so that the
catalog's rows state what a role or a node needs, exactly as they do for one machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

from ascend_v4.catalog.load import Row

from .plan import Port

__all__ = ["Kind", "LoadBalancing", "Placement", "inserted", "is_placed"]

ServerRole = Literal["mixed", "prefill", "decode"]
Kind = Literal["single-node", "multi-node-dp", "pd-disaggregated"]
#: How requests reach the data-parallel ranks: one API server for all nodes, one for each
#: node, or one for each rank (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/).
LoadBalancing = Literal["internal", "hybrid", "external"]


@dataclass(frozen=True)
class Placement:
    """One server process among those that form its replica.

    ``replica_nodes`` is how many nodes the replica spans, ``replica_devices`` the logical
    devices over all of them, ``node_devices`` those that this process may use, by id.
    Ports are TCP ports on the process's own node, except ``rpc_port``, which is the
    head's, and ``kv_port`` and ``side_channel_port``, which are the replica's: the engine
    adds the rank to them, ``kv_offset`` for this process; of a headless process,
    ``bootstrap_port`` is the head's too. A port that the launch has no use for is 0.
    ``prefill_*`` and ``decode_*`` are the sizes of the two sides, 0 where there is no such
    side.
    """

    name: str
    node: str
    topology: Kind
    role: ServerRole
    load_balancing: LoadBalancing
    node_address: str
    interface: str
    head_address: str
    headless: bool = False
    replica_nodes: int = 1
    replica_devices: int = 1
    node_devices: tuple[int, ...] = ()
    data_parallel_size_local: int = 1
    data_parallel_start_rank: int = 0
    data_parallel_rank: int | None = None
    port: int = 8000
    rpc_port: int = 0
    kv_port: int = 0
    kv_offset: int = 0
    engine_id: str = ""
    bootstrap_port: int = 0
    side_channel_port: int = 0
    prefill_tp: int = 0
    prefill_dp: int = 0
    decode_tp: int = 0
    decode_dp: int = 0

    def facts(self) -> dict[str, Any]:
        """Return the placement as facts.

        ``visible_devices`` is the comma-joined ids, ``node_host`` the address as URLs have it.
        """
        named = {name: getattr(self, name) for name in NAMES}
        named["nodes"], named["devices"] = self.replica_nodes, self.replica_devices
        named["host"] = self.node_address
        named["placed"] = True
        del named["name"], named["node"], named["kv_offset"]
        bracketed = ":" in self.node_address
        named["node_host"] = f"[{self.node_address}]" if bracketed else self.node_address
        named["visible_devices"] = ",".join(str(device) for device in self.node_devices)
        return named

    def side_ports(self) -> tuple[Port, ...]:
        """Return the ports beside the API's that this process itself listens on."""
        head = not self.headless and self.data_parallel_rank in (None, 0)
        ports = []
        if head and self.rpc_port:
            ports.append(Port(self.rpc_port, "data-parallel RPC"))
        if self.kv_port:
            first = self.kv_port + self.kv_offset
            last = first + max(1, len(self.node_devices)) - 1
            ports.append(Port(first, "KV transfer", (first, last)))
        if self.bootstrap_port and not self.headless:
            ports.append(Port(self.bootstrap_port, "KV bootstrap"))
        if self.side_channel_port:
            rank = self.data_parallel_rank
            first = self.data_parallel_start_rank if rank is None else rank
            port = self.side_channel_port + first
            last = port if rank is not None else port + self.data_parallel_size_local - 1
            reserved = (port, last) if last > port else None
            ports.append(Port(port, "KV side channel", reserved))
        return tuple(ports)


NAMES = tuple(field.name for field in fields(Placement))
#: Facts that differ between the processes of one group: rows that insert one are filled
#: in anew for each process.
PLACED = frozenset(
    {
        "node_address",
        "node_host",
        "host",
        "interface",
        "head_address",
        "visible_devices",
        "data_parallel_start_rank",
        "data_parallel_rank",
        "port",
        "rpc_port",
        "kv_port",
        "engine_id",
        "bootstrap_port",
        "side_channel_port",
    }
)
INSERTED = re.compile(r"\{(\w+)\}")


def is_placed(row: Row) -> bool:
    """Whether a settings row inserts a fact that differs from process to process."""
    return any(inserts(text) for text in texts(row["value"]))


def inserted(row: Row) -> set[str]:
    """Return the facts that a settings row inserts."""
    return {name for text in texts(row["value"]) for name in INSERTED.findall(text)}


def texts(value: Any) -> Iterator[str]:
    """Yield the strings of a value, those inside lists and dictionaries too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for leaf in value.values() if isinstance(value, dict) else value:
            yield from texts(leaf)


@lru_cache(maxsize=1024)
def inserts(value: str) -> bool:
    """Whether a value inserts a fact that differs from process to process."""
    return not PLACED.isdisjoint(INSERTED.findall(value))
