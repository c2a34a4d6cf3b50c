"""What alerts and panels a deployment gets: rows of the catalog that hold for it.

Its own series are told from others' by the label ``deployment``, which the scrape
configuration puts on every target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.catalog.rendering import rendering_catalog
from ascend_v4.core.launch import parse_flags
from ascend_v4.core.plan import Process
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.model import Node

__all__ = ["RouterMetrics", "Watched", "metric_row", "router_metrics", "series_in", "watched"]

#: Every selector of the catalog has matchers, so a series is a name before a brace.
SERIES = re.compile(r"([A-Za-z_:][\w:]*)\{")
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class RouterMetrics:
    """Where a router's metrics are; ``loopback`` where only its own node can ask for them."""

    node: Node
    process: Process
    address: str
    loopback: bool = False

    @property
    def port(self) -> int:
        """Return the TCP port of the metrics."""
        return self.process.ports[1].port


@dataclass(frozen=True)
class Watched:
    """What decides which rows a deployment gets; ``vllm`` is the release the engine is built on."""

    name: str
    profile: str
    workload: str
    vllm: str
    features: frozenset[str]

    def takes(self, row: Row) -> bool:
        """Whether an alert or a panel is for this deployment, and its release has the series."""
        fits = not row.get("profiles") or self.profile in row["profiles"]
        needs = row.get("needs") or "always"
        exprs = [row["expr"]] if "expr" in row else [query["expr"] for query in row["queries"]]
        return fits and needs in self.features and all(self.has(expr) for expr in exprs)

    def has(self, expr: str) -> bool:
        """Whether the engine's release has every series of an expression that is vLLM's."""
        rows = [metric_row(name) for name in series_in(expr)]
        return all(
            row["exporter"] != "vllm" or number(row.get("since", "0")) <= number(self.vllm)
            for row in rows
        )

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table that are for this deployment, in order."""
        return [row for row in rendering_catalog().table(table) if self.takes(row)]

    def choose(self, value: Any) -> Any:
        """Return the value of the deployment's workload where a row has one for each."""
        return value[self.workload] if isinstance(value, dict) else value


def number(version: str) -> tuple[int, ...]:
    """Return a vLLM release as numbers to compare."""
    return tuple(int(digits) for digits in DIGITS.findall(version)[:3])


def series_in(expr: str) -> list[str]:
    """Return the names of the series that an expression of the catalog reads."""
    return list(dict.fromkeys(SERIES.findall(expr)))


def metric_row(name: str) -> Row:
    """Return the row of a series, ``_bucket`` and the like stripped; raises KeyError."""
    rows = {row["id"]: row for row in rendering_catalog().table("metrics")}
    if name in rows:
        return rows[name]
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if rows[base]["kind"] != "histogram":
        raise KeyError(name)
    return rows[base]


def watched(deployment: Deployment) -> Watched:
    """Return what decides on a deployment's rows."""
    plan = deployment.nodes[0].plan
    words = {word for _, process in deployment.processes() for word in process.argv}
    features = {"always"}
    if "--speculative-config" in words:
        features.add("speculation")
    if any('"NixlConnector"' in word for word in words):
        features.add("nixl")
    if router_metrics(deployment):
        features.add("router-metrics")
    known = catalog()
    release = known.release(plan.engine, plan.engine_version)
    return Watched(
        deployment.topology.name,
        plan.profile,
        workload(deployment),
        str(release["vllm"]),
        frozenset(features),
    )


def workload(deployment: Deployment) -> str:
    """Return the workload that the topology names, ``throughput`` by default."""
    groups = [group.options.get("workload") for group in deployment.topology.groups]
    named = [deployment.topology.options.get("workload"), *groups]
    return next((str(word) for word in named if word), "throughput")


def router_metrics(deployment: Deployment) -> RouterMetrics | None:
    """Return where the router's metrics are, if it has any."""
    found = deployment.router()
    if found is None or len(found[1].ports) < 2:
        return None
    node, process = found
    asked = parse_flags(process.argv[1:]).get("prometheus-host")
    try:
        bound = ip_address(str(asked))
    except ValueError:
        return RouterMetrics(node, process, node.address)
    address = node.address if bound.is_unspecified else str(bound)
    return RouterMetrics(node, process, address, bound.is_loopback)
