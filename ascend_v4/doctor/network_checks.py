"""Checks between nodes: the network of every NPU, and the host's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ascend_v4.host.hccn import HccnDevice, ask_device, find_tool
from ascend_v4.host.reach import tcp_reach

from .check import Outcome, Verdict
from .look import Look
from .port_checks import wanted_ports
from .run_checks import spread

__all__ = ["network_checks", "peer_checks"]

HCCN = ("hccn-link", "hccn-health", "hccn-tls", "hccn-address", "hccn-ping")
#: Device-side links are asked for this many devices at once.
WIDTH = 32


def network_checks(look: Look) -> Iterator[Outcome]:
    """Yield link, health, TLS, address and ping of every NPU of this node."""
    tool = find_tool(look.host)
    if tool is None:
        mount = "/usr/local/Ascend/driver/tools/hccn_tool"
        for name in HCCN:
            said = f"no hccn_tool here: mount {mount} into the container"
            yield Outcome(name, "unknown", said)
        return
    count = look.npus.count if look.npus else 0
    ping = look.npu_peers[0] if look.npu_peers else None
    asks = [
        (lambda n=n: ask_device(look.host, tool, n, look.family, ping, look.tool_s))
        for n in range(count)
    ]
    answers = spread(asks, WIDTH, 6 * look.tool_s)
    devices = [answer for answer in answers if isinstance(answer, HccnDevice)]
    if not devices:
        for name in HCCN:
            yield Outcome(name, "unknown", "hccn_tool gave no answer")
        return
    yield links(devices, look.family)
    yield health(devices, look.family)
    yield tls(devices)
    yield addresses(devices, look.family)
    yield pings(devices, look.family, ping)


def links(devices: list[HccnDevice], family: str) -> Outcome:
    """Return whether links are up; on A3 a ping that comes through outweighs the line."""
    down = [d for d in devices if "DOWN" in (d.link, d.vnic_link)]
    silent = [d for d in devices if d.link is None and d.vnic_link is None]
    if silent and not down:
        said = f"hccn_tool does not tell the link of {names(silent)}"
        return Outcome("hccn-link", "unknown", said, values={"device": str(silent[0].device)})
    if not down:
        return Outcome("hccn-link", "ok", f"{len(devices)} links are up")
    values = {"device": str(down[0].device)}
    message = f"the link of {names(down)} is DOWN"
    if all(d.ping for d in down):
        return Outcome("hccn-link", "warn", f"{message}, yet pings come through: trust the ping")
    verdict: Verdict = "fail"
    if family == "a3" and all(d.ping is None for d in down):
        verdict = "unknown"
        message += (
            "; on A3 that line is not to be trusted: ping an NPU of the other node (--npu-peer)"
        )
    return Outcome("hccn-link", verdict, message, values=values)


def health(devices: list[HccnDevice], family: str) -> Outcome:
    """Return whether each device reaches its detection address; a ping outweighs it."""
    bad = [d for d in devices if d.health and d.health.lower() != "success"]
    if not bad:
        told = [d for d in devices if d.health]
        if not told:
            return Outcome("hccn-health", "unknown", "hccn_tool does not tell it")
        return Outcome("hccn-health", "ok", f"{len(told)} devices: Success")
    message = f"{names(bad)}: {bad[0].health}"
    if all(d.ping for d in bad):
        return Outcome("hccn-health", "ok", f"{message}, yet pings come through: trust the ping")
    unset = all((d.health or "").lower() in ("init", "fault") for d in bad)
    verdict: Verdict = "warn" if unset or family == "a3" else "fail"
    return Outcome("hccn-health", verdict, message, values={"device": str(bad[0].device)})


def tls(devices: list[HccnDevice]) -> Outcome:
    """Return whether all devices agree; nodes have to be compared by hand."""
    on = [d for d in devices if d.tls]
    off = [d for d in devices if d.tls is False]
    if not on and not off:
        return Outcome("hccn-tls", "unknown", "hccn_tool does not tell it")
    if on and off:
        message = f"TLS is on for {names(on)} and off for {names(off)}"
        span = " ".join(str(d.device) for d in devices)
        return Outcome("hccn-tls", "fail", message, values={"devices": span})
    word = "on" if on else "off"
    return Outcome("hccn-tls", "ok", f"TLS is {word} for all; it must be so on every node")


def addresses(devices: list[HccnDevice], family: str) -> Outcome:
    """Return whether every device has an address that no other has."""
    known = Counter(d.address for d in devices if d.address)
    twice = [address for address, number in known.items() if number > 1]
    missing = [d for d in devices if not d.address]
    what = "vnic" if family == "a3" else "ip"
    fix = f"hccn_tool -i {missing[0].device if missing else 0} -{what} -g; /etc/hccn.conf"
    if twice:
        return Outcome("hccn-address", "fail", f"two devices have {twice[0]}", values={"fix": fix})
    if missing and known:
        said = f"{names(missing)} without an address"
        return Outcome("hccn-address", "fail", said, values={"fix": fix})
    if missing:
        return Outcome("hccn-address", "unknown", "no address is told", values={"fix": fix})
    return Outcome(
        "hccn-address", "ok", f"{len(known)} addresses, all different", tuple(known)[:16]
    )


def pings(devices: list[HccnDevice], family: str, peer: str | None) -> Outcome:
    """Return whether every device reaches an NPU of the other node."""
    if peer is None:
        said = "not asked: name an NPU address of another node with --npu-peer"
        return Outcome("hccn-ping", "unknown", said)
    lost = [d for d in devices if d.ping is False]
    silent = [d for d in devices if d.ping is None]
    command = "-hccs_ping" if family == "a3" else "-ping"
    if lost:
        values = {"device": str(lost[0].device), "command": command, "address": peer}
        return Outcome("hccn-ping", "fail", f"{names(lost)} do not reach {peer}", values=values)
    if silent:
        return Outcome("hccn-ping", "unknown", f"{names(silent)}: the answer can't be read")
    return Outcome("hccn-ping", "ok", f"{len(devices)} devices reach {peer}")


def names(devices: list[HccnDevice]) -> str:
    """Return devices in words, at most eight by number."""
    shown = ", ".join(str(d.device) for d in devices[:8])
    more = f" and {len(devices) - 8} more" if len(devices) > 8 else ""
    return f"device {shown}{more}" if len(devices) == 1 else f"devices {shown}{more}"


def peer_checks(look: Look) -> Iterator[Outcome]:
    """Yield whether the other nodes answer on the host network; a refusal is an answer."""
    ports = [entry.first for entry in wanted_ports(look) if not entry.drawn]
    if not look.peers or not ports:
        yield Outcome("peer", "unknown", "not asked: name the other nodes with --peer")
        return
    pairs = [(peer, port) for peer in look.peers for port in ports[:6]]
    asks = [(lambda p=peer, n=port: tcp_reach(p, n, look.tool_s)) for peer, port in pairs]
    answers = spread(asks, WIDTH, look.tool_s + 2)
    lost = [pair for pair, answer in zip(pairs, answers, strict=True) if answer in (None, "silent")]
    seen = tuple(f"{p}:{n} {a or 'silent'}" for (p, n), a in zip(pairs, answers, strict=True))
    if lost:
        peer, port = lost[0]
        fix = f'timeout 3 bash -c "echo > /dev/tcp/{peer}/{port}"; systemctl stop firewalld there'
        message = f"{peer} does not answer on port {port}: a firewall, or another network"
        yield Outcome("peer", "fail", message, seen, {"fix": fix})
    else:
        yield Outcome("peer", "ok", f"{len(look.peers)} nodes answer", seen)
