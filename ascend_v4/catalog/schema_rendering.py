"""Rows that only renderers read: what is watched, schedulers; compiled apart from the rest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from .schema import Sourced

__all__ = ["RENDERING_TABLES"]

Workload = Literal["latency", "throughput", "long-context"]
Profile = Literal["ascend", "cuda", "cpu"]
#: One value, or one for each workload.
ByWorkload = dict[Workload, str] | dict[Workload, float]


class Exporter(Sourced):
    """A program whose ``/metrics`` is scraped. ``port`` is TCP, where we don't choose it."""

    id: str
    profiles: list[Profile] = Field(default_factory=list)
    port: int | None = None
    what: str


class Metric(Sourced):
    """A series by the name that stands in ``/metrics`` (histograms without ``_bucket``).

    ``since`` is the first release of its exporter that has it; for vLLM, a release of
    vLLM itself, whatever engine is built on it.
    """

    id: str
    exporter: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    what: str
    labels: list[str] = Field(default_factory=list)
    since: str | None = None


class Shown(Sourced):
    """What alerts and panels share.

    In an expression SELECT stands for the label matchers of the deployment and LIMIT for
    the threshold. ``profiles`` and ``needs`` say which deployments it is for.
    """

    id: str
    profiles: list[Profile] = Field(default_factory=list)
    needs: Literal["", "speculation", "nixl", "router-metrics"] = ""


class Alert(Shown):
    """One alerting rule; ``limit_reason`` says why the threshold is where it is."""

    expr: str
    limit: float | dict[Workload, float] | None = None
    wait: str | dict[Workload, str]
    severity: Literal["critical", "warning"]
    summary: str
    fix: str
    limit_reason: str


class Query(BaseModel):
    """One line of a panel."""

    expr: str
    legend: str


class Panel(Shown):
    """One panel of the dashboard; ``unit`` is Grafana's name for it."""

    section: str
    title: str
    kind: Literal["timeseries", "stat"] = "timeseries"
    unit: str
    maximum: float | None = None
    queries: list[Query]
    what: str


class SlurmDevices(Sourced):
    """How a Slurm job asks for the devices of a node; ``{devices}`` is their number."""

    id: str
    profiles: list[Profile]
    option: str
    reason: str


class KthenaConnector(Sourced):
    """A KV connector of the engine and the name that Kthena's ModelServer has for it."""

    id: str
    connector: str
    type: Literal["nixl", "mooncake"]


RENDERING_TABLES: dict[str, Any] = {
    "exporters": Exporter,
    "metrics": Metric,
    "alerts": Alert,
    "panels": Panel,
    "slurm_devices": SlurmDevices,
    "kthena_connectors": KthenaConnector,
}
