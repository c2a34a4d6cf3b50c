"""From the text of a topology to plans that may be run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ascend_v4.core.plan import LaunchPlan
from ascend_v4.errors import AscendV4Error, ExitCode

if TYPE_CHECKING:
    from ascend_v4.host.system import Host
    from ascend_v4.topology.deployment import Deployment
    from ascend_v4.topology.lines import Lines

__all__ = [
    "Planned",
    "decoders_of",
    "key_file",
    "node_plan",
    "peers_of",
    "planned",
    "refuse_all",
    "served_model",
    "timed",
]


@dataclass(frozen=True)
class Planned:
    """A deployment with the text that it came from and the lines of its parts."""

    text: str
    deployment: Deployment
    lines: Lines


def planned(text: str, name: str, host: Host) -> Planned:
    """Return the deployment that a topology's text describes; ``name`` is its file's.

    Broken rules are among its findings, see ``refuse_all``. Raises AscendV4Error (usage)
    for what is no topology, (refused) where it can't be planned at all.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.paths import models_dir
    from ascend_v4.topology.check import check_topology, refuse
    from ascend_v4.topology.read import parse_topology

    file = parse_topology(text, name)
    checked = check_topology(file, catalog(), str(models_dir(host.env)))
    if checked.deployment is None:
        refuse(checked.findings)
        raise AssertionError("a topology without a plan has a finding that refuses it")
    return Planned(text, checked.deployment, file.lines)


def refuse_all(deployment: Deployment) -> None:
    """Raise AscendV4Error (refused), every error with its line, where a rule is broken."""
    from ascend_v4.topology.check import refuse

    refuse(deployment.findings)


def node_plan(deployment: Deployment, name: str) -> LaunchPlan:
    """Return what runs on a node; raises AscendV4Error (usage) for one that runs nothing."""
    try:
        return deployment.node_plan(name).plan
    except KeyError:
        from ascend_v4.catalog.load import nearest

        names = [planned.node.name for planned in deployment.nodes]
        known = {node.name for node in deployment.topology.nodes}
        what = "runs nothing" if name in known else "is not in the topology"
        hint = nearest(name, names) or f"it has {', '.join(names[:10])}"
        raise AscendV4Error(
            ExitCode.USAGE, "unknown-node", f"node '{name}' {what}. {hint}", "--node NAME"
        ) from None


def timed(plan: LaunchPlan, drain_s: int | None, deadline_s: float | None) -> LaunchPlan:
    """Return the plan with other times, in seconds; None leaves one as it is.

    For running requests to finish, and for the start. Processes are told by their own
    options too: vllm-router gives its servers up after a time of its own.
    """
    processes = plan.processes
    if drain_s is not None:
        processes = tuple(
            replace(p, argv=with_value(p.argv, "--shutdown-timeout", drain_s), drain_s=drain_s)
            for p in processes
        )
    if deadline_s is not None:
        whole, flag = math.ceil(deadline_s), "--worker-startup-timeout-secs"
        processes = tuple(
            replace(p, argv=with_value(p.argv, flag, whole), deadline_s=whole) for p in processes
        )
    return replace(plan, processes=processes)


def with_value(argv: Sequence[str], flag: str, value: int) -> tuple[str, ...]:
    """Return the words with another value of a flag, where it is given."""
    words = list(argv)
    if flag in words[:-1]:
        words[words.index(flag) + 1] = str(value)
    return tuple(words)


def served_model(deployment: Deployment) -> str:
    """Return the name that the servers answer to."""
    for _, process in deployment.processes():
        if "--served-model-name" in process.argv[:-1]:
            return process.argv[process.argv.index("--served-model-name") + 1]
    return ""


def peers_of(deployment: Deployment, node: str) -> dict[str, tuple[str, ...]]:
    """Return the servers on other nodes that each process of a node needs, by base URL.

    A headless process needs its replica's head, as does one with an API of its own that
    shares the head's ranks (hybrid load balancing); a router needs every server.
    """
    pairs = deployment.processes()
    urls = {p.name: p.ready.url for _, p in pairs if p.ready and p.role != "router"}
    found: dict[str, tuple[str, ...]] = {}
    for where, process in pairs:
        if where.name != node:
            continue
        head = f"{process.name.rpartition('-')[0]}-0"
        hybrid = "--data-parallel-hybrid-lb" in process.argv and process.name != head
        if process.role == "headless" or hybrid:
            found[process.name] = (urls[head],)
        elif process.role == "router":
            elsewhere = {p.name for n, p in pairs if n.name != node}
            found[process.name] = tuple(url for name, url in urls.items() if name in elsewhere)
    return found


def decoders_of(deployment: Deployment) -> tuple[str, ...]:
    """Return the base URLs of the servers that fetch the KV cache of others."""
    return tuple(
        process.ready.url
        for _, process in deployment.processes()
        if process.role == "decode" and process.ready
    )


def key_file(deployment: Deployment) -> str:
    """Return the file of the API key that the servers ask for, ``""`` if they ask for none."""
    secrets: list[Mapping[str, str]] = [p.secret_env for _, p in deployment.processes()]
    return next((found["VLLM_API_KEY"] for found in secrets if "VLLM_API_KEY" in found), "")
