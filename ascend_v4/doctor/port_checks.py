"""Every port that the plan will use: listed, probed, its holder named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.os_settings import local_port_range, reserved_ports
from ascend_v4.host.ports import holder_of_port, port_free

from .check import Outcome
from .look import Look

__all__ = ["Wanted", "port_checks", "wanted_ports"]

#: HCCL takes 16 ports from its base, 60000 where HCCL_IF_BASE_PORT names none.
HCCL_BASE, HCCL_PORTS = 60000, 16
#: vLLM 0.32.0 vllm/config/parallel.py: defaults of the data parallel RPC and master ports.
DP_RPC, MASTER = 29550, 29501
#: Mooncake's AscendDirectTransport draws from [20000, 20000 + 1000 * NPUs).
MOONCAKE_BASE, MOONCAKE_SHARE = 20000, 1000


@dataclass(frozen=True)
class Wanted:
    """Ports ``first`` to ``last`` for a use; ``address`` is where they are bound.

    ``drawn`` ports are taken at random from the range, so one holder is no clash.
    """

    use: str
    first: int
    last: int
    address: str = "0.0.0.0"
    drawn: bool = False


def wanted_ports(look: Look) -> list[Wanted]:
    """Return every port of the plan on one node."""
    if look.compiled is None:
        return []
    found: list[Wanted] = []
    facts, flags = look.compiled.facts, look.compiled.launch.flags
    for process in look.compiled.plan.processes:
        address = argument(process.argv, "--host") or "0.0.0.0"
        found += [Wanted(port.use, port.port, port.port, address) for port in process.ports]
        found += hccl_ports(look, process.env)
    ranks = int(facts.get("ranks") or 1)
    if int(facts.get("data_parallel_size") or 1) > 1 and look.nodes > 1:
        port = int(flags.get("data-parallel-rpc-port") or DP_RPC)
        found.append(Wanted("data parallel RPC", port, port))
    if look.nodes > 1:
        port = int(flags.get("master-port") or MASTER)
        found.append(Wanted("torch master", port, port))
    found += transfer_ports(flags.get("kv-transfer-config"), ranks)
    return list({(w.first, w.last): w for w in reversed(found)}.values())[::-1]


def hccl_ports(look: Look, env: Mapping[str, str]) -> list[Wanted]:
    """Return the host ports of HCCL, which every multi-device start binds."""
    if look.profile != "ascend" or env.get("HCCL_HOST_SOCKET_PORT_RANGE"):
        return []
    base = env.get("HCCL_IF_BASE_PORT") or look.host.env.get("HCCL_IF_BASE_PORT") or ""
    first = int(base) if base.isdigit() else HCCL_BASE
    return [Wanted("HCCL (HCCL_IF_BASE_PORT)", first, first + HCCL_PORTS - 1)]


def transfer_ports(config: Any, ranks: int) -> list[Wanted]:
    """Return the ports of a KV connector: its own, and the range its transport draws from."""
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return []
    if not isinstance(config, Mapping):
        return []
    found = []
    port = str(config.get("kv_port") or "")
    if port.isdigit():
        found.append(Wanted("KV transfer (kv_port)", int(port), int(port) + ranks - 1))
    if "ooncake" in json.dumps(dict(config)):
        last = MOONCAKE_BASE + MOONCAKE_SHARE * ranks - 1
        found.append(Wanted("Mooncake transport", MOONCAKE_BASE, last, drawn=True))
    return found


def argument(argv: tuple[str, ...], flag: str) -> str | None:
    """Return the value behind a flag, or None."""
    return argv[argv.index(flag) + 1] if flag in argv[:-1] else None


def port_checks(look: Look) -> Iterator[Outcome]:
    """Yield whether the ports are free, and whether ranges overlap."""
    wanted = wanted_ports(look)
    if not wanted:
        yield Outcome("ports", "unknown", "there is no plan to tell the ports from")
        return
    yield free(look, wanted)
    yield overlaps(look, wanted)


def free(look: Look, wanted: list[Wanted]) -> Outcome:
    """Return whether every port can be bound, with the pid and name of who has it."""
    seen = tuple(told(entry) for entry in wanted)
    for entry in wanted:
        if entry.drawn:
            continue
        for port in range(entry.first, entry.last + 1):
            try:
                if port_free(entry.address, port):
                    continue
            except AscendV4Error as error:
                values = {"fix": error.next}
                return Outcome("ports", "fail", error.message, seen, values, error.code)
            holder = holder_of_port(look.host, port)
            who = (
                f"{holder.name} (pid {holder.pid})" if holder and holder.pid else "another process"
            )
            message = f"port {port} ({entry.use}) is held by {who}"
            return Outcome(
                "ports", "fail", message, seen, {"fix": other(entry, who)}, ExitCode.BUSY
            )
    return Outcome("ports", "ok", f"{len(seen)} uses, all free", seen)


def other(entry: Wanted, who: str) -> str:
    """Return how to give a use another port."""
    if "HCCL" in entry.use:
        return f"stop {who}, or export HCCL_IF_BASE_PORT={entry.last + 1}"
    if "kv_port" in entry.use:
        return f"stop {who}, or choose another kv_port"
    return f"stop {who}, or choose another: --port {entry.last + 1}"


def overlaps(look: Look, wanted: list[Wanted]) -> Outcome:
    """Return whether a fixed port lies where another use or the kernel draws at random."""
    fixed = [entry for entry in wanted if not entry.drawn]
    for drawn in (entry for entry in wanted if entry.drawn):
        for entry in fixed:
            if entry.first <= drawn.last and drawn.first <= entry.last:
                message = f"{told(entry)} lies in the range of {told(drawn)}"
                values = {"fix": f"choose ports from {max(drawn.last + 1, 36000)} on"}
                return Outcome("port-ranges", "warn", message, values=values)
    kernel, kept = local_port_range(look.host), reserved_ports(look.host)
    if kernel is None:
        return Outcome("port-ranges", "unknown", "the kernel's port range can't be read")
    at_risk = [e for e in fixed if overlap(e, *kernel) and not any(covers(k, e) for k in kept)]
    if at_risk:
        ranges = ",".join(
            f"{e.first}-{e.last}" if e.last > e.first else str(e.first) for e in at_risk
        )
        message = (
            f"{told(at_risk[0])} lies in {kernel[0]}-{kernel[1]}, from which the kernel gives "
            "ports to outgoing connections"
        )
        fix = f"sysctl -w net.ipv4.ip_local_reserved_ports={ranges}"
        return Outcome("port-ranges", "warn", message, values={"fix": fix})
    return Outcome("port-ranges", "ok", f"outside {kernel[0]}-{kernel[1]}, or reserved")


def overlap(entry: Wanted, first: int, last: int) -> bool:
    """Whether any port of an entry lies in a range."""
    return entry.first <= last and first <= entry.last


def covers(kept: tuple[int, int], entry: Wanted) -> bool:
    """Whether a reserved range holds all ports of an entry."""
    return kept[0] <= entry.first and entry.last <= kept[1]


def told(entry: Wanted) -> str:
    """Return an entry in a few words."""
    ports = str(entry.first) if entry.first == entry.last else f"{entry.first}-{entry.last}"
    return f"{entry.use} {ports}"
