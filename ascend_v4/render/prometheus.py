"""Prometheus: what to scrape and when to wake somebody, for a whole deployment.

``prometheus.yml`` is complete, so that it can be tried as it is; where a Prometheus runs
already, its ``scrape_configs`` and ``alerts.yml`` are what to take over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_v4.catalog.load import Row
from ascend_v4.catalog.rendering import rendering_catalog
from ascend_v4.topology.deployment import Deployment

from .common import header
from .monitoring import RouterMetrics, Watched, router_metrics, watched
from .targets import RenderOptions
from .yamltext import Noted, document

__all__ = ["alert", "render"]

#: Thresholds are where to start from.
YOURS = ("alerts.yml",)
#: Seconds between two scrapes; the shortest window of the alerts holds twenty of them.
SCRAPE_S = 15


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the scrape configuration and the alerting rules."""
    facts = watched(deployment)
    return {
        "alerts.yml": document(rules(facts), header(deployment, "prometheus", *alert_head(facts))),
        "prometheus.yml": document(
            configuration(deployment, facts), header(deployment, "prometheus")
        ),
    }


def alert_head(facts: Watched) -> list[str]:
    """Return what to know before changing a threshold."""
    return [
        f"Thresholds are those of the workload {facts.workload}: a start, no promises.",
        f"Series as vLLM {facts.vllm} has them; the check of this file is: promtool check rules.",
    ]


def configuration(deployment: Deployment, facts: Watched) -> dict[str, Any]:
    """Return the whole of prometheus.yml."""
    jobs = [vllm_job(deployment, facts)]
    router = router_metrics(deployment)
    if router:
        jobs.append(router_job(facts, router))
    for row in rendering_catalog().table("exporters"):
        if facts.profile in row.get("profiles", []):
            jobs.append(node_job(deployment, row))
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": jobs,
    }


def job(name: str, targets: list[Any], note: str = "") -> Any:
    """Return one scrape job; the metrics of every exporter here are at /metrics, without a key."""
    made = {"job_name": name, "static_configs": targets}
    return Noted(made, note) if note else made


def target(address: str, port: int, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return one target with the labels that the rules and the dashboard go by."""
    bracketed = f"[{address}]" if ":" in address else address
    return {"targets": [f"{bracketed}:{port}"], "labels": dict(labels)}


def vllm_job(deployment: Deployment, facts: Watched) -> Any:
    """Return the job of every API server; headless nodes report through their head."""
    targets = []
    for node, process in deployment.processes():
        if process.ready is None or process.role == "router":
            continue
        labels = {
            "deployment": facts.name,
            "group": deployment.group_of(process),
            "role": process.role,
            "node": node.name,
            "process": process.name,
        }
        targets.append(target(node.address, process.ports[0].port, labels))
    headless = any(process.role == "headless" for _, process in deployment.processes())
    note = "A headless node has no port: its ranks are series of their head, by the label engine."
    return job("vllm", targets, note if headless else "")


def router_job(facts: Watched, router: RouterMetrics) -> Any:
    """Return the job of the router, with what to change where only its own node can scrape it."""
    labels = {
        "deployment": facts.name,
        "node": router.node.name,
        "process": router.process.name,
    }
    note = (
        f"It listens on loopback, as its API does: this Prometheus must run on {router.node.name},"
        " or router.host be an address that it reaches."
    )
    found = target(router.address, router.port, labels)
    return job("vllm-router", [found], note if router.loopback else "")


def node_job(deployment: Deployment, row: Row) -> Any:
    """Return the job of an exporter that runs once on each node."""
    name = deployment.topology.name
    targets = [
        target(planned.node.address, row["port"], {"deployment": name, "node": planned.node.name})
        for planned in deployment.nodes
        if any(process.devices for process in planned.plan.processes)
    ]
    return job(row["id"], targets, f"{row['what']} ({row['source']})")


def rules(facts: Watched) -> dict[str, Any]:
    """Return the alerting rules as one group."""
    return {
        "groups": [
            {
                "name": f"ascend-v4-{facts.name}",
                "rules": [alert(facts, row) for row in facts.rows("alerts")],
            }
        ]
    }


def alert(facts: Watched, row: Row) -> Noted:
    """Return one rule, above it why its threshold is where it is."""
    limit = facts.choose(row.get("limit"))
    shown = "" if limit is None else f"{limit:g}"
    select = f'deployment="{facts.name}"'
    made = {
        "alert": row["id"],
        "expr": row["expr"].replace("SELECT", select).replace("LIMIT", shown),
        "for": facts.choose(row["wait"]),
        "labels": {"severity": row["severity"], "deployment": facts.name},
        "annotations": {"summary": row["summary"].replace("LIMIT", shown), "fix": row["fix"]},
    }
    return Noted(made, f"{row['limit_reason']} ({row['source']})")
