"""Checks of the NPUs: there, supported, healthy, free."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ascend_v4.errors import ExitCode
from ascend_v4.host.npu import NpuHost
from ascend_v4.host.npu_smi import parse_mapping
from ascend_v4.host.system import Host

from .check import Outcome, Verdict
from .holders import Holder, holder_of, told
from .look import Look
from .run_checks import spread

__all__ = ["npu_boards", "npu_checks", "npu_mapping"]

#: What detection finds wrong: the check it belongs to, the verdict, the exit code of a failure.
PROBLEMS: dict[str, tuple[str, Verdict, ExitCode]] = {
    "no-device-nodes": ("npu-devices", "fail", ExitCode.HOST_NOT_READY),
    "tool-missing": ("npu-devices", "warn", ExitCode.HOST_NOT_READY),
    "tool-hangs": ("npu-devices", "fail", ExitCode.HOST_NOT_READY),
    "tool-failed": ("npu-devices", "warn", ExitCode.HOST_NOT_READY),
    "device-used": ("npu-devices", "fail", ExitCode.BUSY),
    "count-mismatch": ("npu-devices", "warn", ExitCode.HOST_NOT_READY),
    "driver-warning": ("npu-devices", "warn", ExitCode.HOST_NOT_READY),
    "unsupported": ("npu-chip", "fail", ExitCode.REFUSED),
    "unknown-chip": ("npu-chip", "unknown", ExitCode.HOST_NOT_READY),
    "visible-malformed": ("npu-visible", "fail", ExitCode.HOST_NOT_READY),
    "visible-beyond": ("npu-visible", "fail", ExitCode.HOST_NOT_READY),
}
#: Alarms of npu-smi: a warning is minor, the others stop a card sooner or later.
MINOR = ("WARNING",)
STOPPING = ("ALARM", "CRITICAL", "OFFLINE", "ERROR")
#: Share of a card's HBM that an idle driver holds: 3.4 GB of 64, 6.7 of 86, 5.4 of 128.
IDLE_SHARE = 0.09


def npu_checks(look: Look) -> Iterator[Outcome]:
    """Yield what npu-smi and the device nodes say about the NPUs."""
    npus = look.npus
    if npus is None:
        yield Outcome(
            "npu-devices",
            "fail",
            "this host has no Ascend NPU: no /dev/davinciN, no npu-smi, none on PCI",
            values={
                "fix": "start the container with --device=/dev/davinci0 …, or name the profile"
            },
        )
        return
    yield from problems(npus)
    yield from visible(npus, look.host)
    yield health(npus)
    yield memory(npus, look)
    yield processes(npus, look)
    yield count(npus, look)


def problems(npus: NpuHost) -> Iterator[Outcome]:
    """Yield what detection itself found wrong, or that devices and chip are good."""
    seen = set()
    for problem in npus.problems:
        if problem.kind in PROBLEMS:
            name, verdict, code = PROBLEMS[problem.kind]
            seen.add(name)
            evidence = npus.evidence[:4]
            yield Outcome(name, verdict, problem.message, evidence, {"fix": problem.fix}, code)
    if "npu-devices" not in seen:
        kinds = ", ".join(sorted({d.name for d in npus.devices})) or "unnamed"
        said = f"{npus.count} devices ({kinds}), driver {npus.driver_version or 'unknown'}"
        yield Outcome("npu-devices", "ok", said, npus.evidence[:4])
    if "npu-chip" not in seen:
        yield Outcome("npu-chip", "ok", f"{npus.chip} ({npus.confidence})", npus.evidence[1:2])


def visible(npus: NpuHost, host: Host) -> Iterator[Outcome]:
    """Yield that ASCEND_RT_VISIBLE_DEVICES is good, where detection found nothing wrong."""
    if any(problem.kind.startswith("visible") for problem in npus.problems):
        return
    value = host.env.get("ASCEND_RT_VISIBLE_DEVICES")
    said = "not set: every device is visible" if npus.visible is None else f"{value} leaves "
    tail = "" if npus.visible is None else f"{len(npus.visible)} of {npus.count}"
    yield Outcome("npu-visible", "ok", said + tail)


def health(npus: NpuHost) -> Outcome:
    """Return whether every card is healthy; a word that is not npu-smi's stays unknown."""
    if not npus.devices:
        return Outcome("npu-health", "unknown", "npu-smi listed no device to ask about")
    words = {device.health.upper() for device in npus.devices}
    bad = [d for d in npus.devices if d.health.upper() != "OK"]
    if not bad:
        return Outcome("npu-health", "ok", f"{len(npus.devices)} devices report OK")
    stopping = [d for d in bad if d.health.upper() in STOPPING]
    verdict: Verdict = "fail" if stopping else "warn" if words <= {"OK", *MINOR} else "unknown"
    seen = tuple(
        f"card {d.card}{'' if d.chip is None else f' chip {d.chip}'}: {d.health}" for d in bad
    )
    worst = (stopping or bad)[0]
    return Outcome(
        "npu-health",
        verdict,
        f"{len(bad)} of {len(npus.devices)} devices are not OK: {seen[0]}; the engine only logs it",
        seen[:16],
        {"card": str(worst.card)},
    )


def memory(npus: NpuHost, look: Look) -> Outcome:
    """Return whether each device has the HBM free that the plan will take."""
    sized = [d for d in npus.devices if d.hbm_total_mb and d.hbm_used_mb is not None]
    if not sized:
        return Outcome("npu-memory", "unknown", "npu-smi gave no HBM sizes")
    share = utilization(look)
    short = [d for d in sized if (d.hbm_total_mb or 0) * (1 - share) < (d.hbm_used_mb or 0)]
    seen = tuple(
        f"card {d.card} chip {d.chip}: {d.hbm_used_mb} of {d.hbm_total_mb} MB" for d in sized
    )
    if not short:
        free = min((d.hbm_total_mb or 0) - (d.hbm_used_mb or 0) for d in sized)
        return Outcome("npu-memory", "ok", f"at least {free} MB free on each device", seen[:2])
    busy = any((d.hbm_used_mb or 0) > IDLE_SHARE * (d.hbm_total_mb or 1) for d in short)
    return Outcome(
        "npu-memory",
        "fail" if busy else "warn",
        f"{len(short)} of {len(sized)} devices have less free than the {share:.0%} "
        "that the plan takes",
        tuple(
            f"card {d.card} chip {d.chip}: {d.hbm_used_mb} of {d.hbm_total_mb} MB" for d in short
        )[:16],
        code=ExitCode.BUSY,
    )


def utilization(look: Look) -> float:
    """Return the share of device memory that the plan takes, from 0 to 1."""
    try:
        return float(look.compiled.facts["gpu_memory_utilization"]) if look.compiled else 0.9
    except (KeyError, TypeError, ValueError):
        return 0.9


def processes(npus: NpuHost, look: Look) -> Outcome:
    """Return who holds HBM: our runs by their id, others by name, user and pid."""
    if not npus.devices:
        return Outcome("npu-processes", "unknown", "npu-smi listed no device to ask about")
    if not npus.processes:
        return Outcome("npu-processes", "ok", "no process holds an NPU")
    holders: dict[int, Holder] = {}
    for process in npus.processes:
        if process.pid not in holders:
            pid = process.container_pid or process.pid
            holders[process.pid] = holder_of(look.host, pid, process.name, process.memory_mb)
    return held("npu-processes", list(holders.values()))


def held(name: str, holders: list[Holder]) -> Outcome:
    """Return the outcome for devices that processes hold."""
    ours = sorted({holder.run for holder in holders if holder.run})
    fix = (
        f"ascend-v4 stop {ours[0]}"
        if ours
        else "stop them: " + "; ".join(f"kill {holder.pid}" for holder in holders[:8])
    )
    what = f"run {', '.join(ours)} of ours" if ours else told(holders[0])
    message = f"{len(holders)} processes hold device memory: {what}"
    seen = tuple(told(holder) for holder in holders[:16])
    return Outcome(name, "warn", message, seen, {"fix": fix}, ExitCode.BUSY)


def count(npus: NpuHost, look: Look) -> Outcome:
    """Return whether there are as many devices as one node of the plan wants."""
    if look.compiled is None:
        return Outcome("npu-count", "unknown", "there is no plan to count for")
    wanted = int(look.compiled.facts["ranks"] or look.compiled.facts["devices"]) // look.nodes
    if npus.usable_count >= wanted:
        return Outcome("npu-count", "ok", f"{npus.usable_count} devices, the plan wants {wanted}")
    fix = "mount the missing /dev/davinciN or unset ASCEND_RT_VISIBLE_DEVICES, "
    return Outcome(
        "npu-count",
        "fail",
        f"{npus.usable_count} devices, but the plan wants {wanted} on each node",
        npus.evidence[:1],
        {"fix": fix + f"or ask for --devices {npus.usable_count}"},
    )


def npu_smi(host: Host) -> str | None:
    """Return the path of npu-smi: on PATH, or where drivers put it beside sbin."""
    places = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi")
    return host.which("npu-smi") or next(
        (str(host.path(p)) for p in places if host.exists(p)), None
    )


def npu_mapping(look: Look) -> Iterator[Outcome]:
    """Yield which card and die each device number is."""
    tool = npu_smi(look.host)
    if tool is None:
        yield Outcome("npu-mapping", "unknown", "no npu-smi on PATH")
        return
    done = look.host.run([tool, "info", "-m"], timeout_s=look.tool_s)
    rows = [row for row in parse_mapping(done.stdout) if row.logic_id is not None]
    if not rows:
        lines = (done.stderr or done.stdout).strip().splitlines()
        yield Outcome("npu-mapping", "unknown", "npu-smi info -m gave no table", tuple(lines[:1]))
        return
    seen = tuple(f"davinci{row.logic_id}: card {row.card} chip {row.chip}" for row in rows)
    renumbered = any(row.logic_id != number for number, row in enumerate(rows))
    said = f"{len(rows)} devices" + (", numbers do not follow the cards" if renumbered else "")
    yield Outcome("npu-mapping", "ok", said, seen)


def npu_boards(look: Look) -> Iterator[Outcome]:
    """Yield whether driver and firmware of every card go together (npu-smi -t board)."""
    tool = npu_smi(look.host)
    cards = sorted({device.card for device in look.npus.devices}) if look.npus else []
    if tool is None or not cards:
        yield Outcome("npu-compatibility", "unknown", "no npu-smi or no card to ask about")
        return
    asks = [
        (
            lambda card=card: look.host.run(
                [tool, "info", "-t", "board", "-i", str(card)], look.tool_s
            )
        )
        for card in cards
    ]
    answers = spread(asks, 8, 2 * look.tool_s)
    states = {
        c: compatibility(str(getattr(a, "stdout", ""))) for c, a in zip(cards, answers, strict=True)
    }
    wrong = [card for card, state in states.items() if state not in (None, "OK")]
    seen = tuple(f"card {card}: {state or 'not told'}" for card, state in states.items())
    if wrong:
        message = f"driver and firmware of card {wrong[0]} do not go together: {states[wrong[0]]}"
        verdict: Verdict = "fail" if states[wrong[0]] in ("NOK", "NG") else "unknown"
        yield Outcome("npu-compatibility", verdict, message, seen, {"card": str(wrong[0])})
    elif "OK" in states.values():
        yield Outcome("npu-compatibility", "ok", f"{len(cards)} cards say OK", seen[:1])
    else:
        yield Outcome("npu-compatibility", "unknown", "npu-smi does not tell it here", seen[:1])


def compatibility(text: str) -> str | None:
    """Return the word behind ``Compatibility`` of ``npu-smi info -t board``, or None."""
    found = re.search(r"^\s*Compatibility\s*:\s*([A-Za-z]{1,20})", text, re.MULTILINE)
    return found[1].upper() if found and found[1].upper() != "NA" else None
