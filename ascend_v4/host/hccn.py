"""Pure parsers for ``hccn_tool``, and the questions asked to it.

Formats: https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/
features/pd_disaggregation_mooncake_multi_node.md. What an answer doesn't say is None;
damaged text never raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ascend_v4.host.system import Host

__all__ = ["HccnDevice", "ask_device", "find_tool", "parse_answers", "parse_ping"]

_PLACES = ("/usr/local/Ascend/driver/tools/hccn_tool", "/usr/local/bin/hccn_tool")
_LINK = re.compile(r"^\s*link status\s*:\s*(UP|DOWN)\b", re.IGNORECASE | re.MULTILINE)
_HEALTH = re.compile(r"^\s*net health status\s*:\s*([^\n]{1,60})", re.IGNORECASE | re.MULTILINE)
_TLS = re.compile(r"tls switch\[(\d)\]", re.IGNORECASE)
_ADDRESS = re.compile(r"^\s*(?:vnic )?ipaddr\s*:\s*([0-9A-Fa-f.:]{2,45})", re.MULTILINE)
_VNIC = re.compile(r"^\s*vnic link status\s*:\s*(UP|DOWN)\b", re.IGNORECASE | re.MULTILINE)
_RECEIVED = re.compile(r"(\d{1,6})\s+received,\s*(\d{1,3}(?:\.\d{1,4})?)%\s+packet loss")


@dataclass(frozen=True)
class HccnDevice:
    """The network of one NPU. ``link`` and ``vnic_link`` are UP or DOWN, ``health`` the
    word after "net health status", ``tls`` whether its switch is on, ``address`` its own.
    """

    device: int
    link: str | None = None
    health: str | None = None
    tls: bool | None = None
    address: str | None = None
    vnic_link: str | None = None
    ping: bool | None = None


def parse_answers(device: int, text: str) -> HccnDevice:
    """Return what the answers of several questions, one after the other, say together."""
    link, health, tls = _LINK.search(text), _HEALTH.search(text), _TLS.search(text)
    vnic, address = _VNIC.search(text), _ADDRESS.search(text)
    return HccnDevice(
        device,
        link[1].upper() if link else None,
        health[1].strip() if health else None,
        tls[1] == "1" if tls else None,
        address[1] if address else None,
        vnic[1].upper() if vnic else None,
    )


def parse_ping(text: str) -> bool | None:
    """Return whether a ping came through, None where the text doesn't say."""
    if "ping success" in text:
        return True
    counted = _RECEIVED.search(text)
    if counted:
        return int(counted[1]) > 0
    return False if re.search(r"ping fail|timed?\s?out|unreachable", text, re.IGNORECASE) else None


def find_tool(host: Host) -> str | None:
    """Return the path of hccn_tool, which containers mount beside the driver, or None."""
    places = (str(host.path(place)) for place in _PLACES if host.exists(place))
    return host.which("hccn_tool") or next(places, None)


def questions(family: str) -> tuple[tuple[str, ...], ...]:
    """Return what is asked about each device of a chip family; A3 has virtual cards."""
    address = ("-vnic", "-g") if family == "a3" else ("-ip", "-g")
    return ("-link", "-g"), ("-net_health", "-g"), ("-tls", "-g"), address


def ask_device(
    host: Host,
    tool: str,
    device: int,
    family: str,
    ping: str | None = None,
    timeout_s: float = 5.0,
) -> HccnDevice:
    """Ask hccn_tool about one device, and let it ping an NPU address of another node.

    Each question gets ``timeout_s`` of wall time. Never raises.
    """
    texts = [
        host.run([tool, "-i", str(device), *question], timeout_s=timeout_s).stdout
        for question in questions(family)
    ]
    found = parse_answers(device, "\n".join(texts))
    if ping is None:
        return found
    command = "-hccs_ping" if family == "a3" else "-ping"
    done = host.run([tool, "-i", str(device), command, "-g", "address", ping], timeout_s=timeout_s)
    return replace(found, ping=parse_ping(f"{done.stdout}\n{done.stderr}"))
