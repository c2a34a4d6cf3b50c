"""A Grafana dashboard for the deployments of one Prometheus, as JSON to import.

The data source and the deployment are chosen at the top of the dashboard; what is in it
follows the deployment it was made for. The JSON is of the classic model that every
Grafana since 9 imports:
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

import json
from typing import Any

from ascend_v4.catalog.load import Row
from ascend_v4.topology.deployment import Deployment

from .common import header
from .monitoring import Watched, watched
from .targets import RenderOptions

__all__ = ["render"]

SCHEMA_VERSION = 39
#: The grid is 24 wide. A stat takes a quarter of a line, a time series a third.
WIDTH = {"stat": 6, "timeseries": 8}
HEIGHT = {"stat": 4, "timeseries": 8}
#: Series of engines carry a group, those of devices do not: both match an empty choice.
SELECT = 'deployment="$deployment"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the dashboard."""
    facts = watched(deployment)
    dashboard = {
        "uid": f"ascend-v4-{facts.name}"[:40],
        "title": f"ascend-v4: {facts.name}",
        "description": "\n".join(header(deployment, "grafana")),
        "tags": ["ascend-v4", "vllm"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": variables(facts)},
        "annotations": {"list": [alerts_annotation()]},
        "panels": panels(facts),
    }
    text = json.dumps(dashboard, indent=2, ensure_ascii=False)
    return {f"{facts.name}.json": text + "\n"}


def variables(facts: Watched) -> list[dict[str, Any]]:
    """Return what is chosen at the top: the data source and the deployment."""
    query = "label_values(vllm:num_requests_running, deployment)"
    return [
        {"name": "datasource", "type": "datasource", "label": "Prometheus", "query": "prometheus"},
        {
            "name": "deployment",
            "type": "query",
            "label": "Deployment",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": "deployment"},
            "refresh": 2,
            "sort": 1,
            "current": {"text": facts.name, "value": facts.name, "selected": True},
        },
    ]


def alerts_annotation() -> dict[str, Any]:
    """Return what marks firing alerts on every panel."""
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'ALERTS{{{SELECT},alertstate="firing"}}',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


def panels(facts: Watched) -> list[dict[str, Any]]:
    """Return every panel in its place, a row of its own above each section."""
    made: list[dict[str, Any]] = []
    section, x, y, tallest = "", 0, 0, 0
    for row in facts.rows("panels"):
        kind = row.get("kind", "timeseries")
        if row["section"] != section:
            section, x, y = row["section"], 0, y + tallest
            made.append(heading(section, y, len(made) + 1))
            y, tallest = y + 1, 0
        if x + WIDTH[kind] > 24:
            x, y = 0, y + tallest
        tallest = HEIGHT[kind]
        place = {"x": x, "y": y, "w": WIDTH[kind], "h": HEIGHT[kind]}
        made.append(panel(row, kind, place, len(made) + 1))
        x += WIDTH[kind]
    return made


def heading(title: str, y: int, number: int) -> dict[str, Any]:
    """Return the row that opens a section."""
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        "panels": [],
    }


def panel(row: Row, kind: str, place: dict[str, int], number: int) -> dict[str, Any]:
    """Return one panel."""
    defaults: dict[str, Any] = {"unit": row["unit"].replace("suffix: ", "suffix:"), "min": 0}
    if row.get("maximum"):
        defaults["max"] = row["maximum"]
    return {
        "id": number,
        "type": kind,
        "title": row["title"],
        "description": f"{row['what']} ({row['source']})",
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[kind],
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query["expr"].replace("SELECT", SELECT),
                "legendFormat": query["legend"],
            }
            for index, query in enumerate(row["queries"])
        ],
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"},
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}
