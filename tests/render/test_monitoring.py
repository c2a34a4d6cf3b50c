"""Scrape configuration, alerts and dashboard: real series, Prometheus' own tool, fired rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ascend_v4.catalog.rendering import rendering_catalog
from ascend_v4.render.monitoring import metric_row, series_in, watched
from ascend_v4.render.targets import RenderOptions, render

from .cases import MORE, deployment

CASES = [*MORE, "pd-h200"]
RECORDED = Path(__file__).parents[1] / "data" / "metrics" / "vllm-0.32.0.txt"
#: Only with NIXL, which the recorded server did not have.
NOT_RECORDED = {"vllm:nixl_num_failed_transfers_total"}


@pytest.fixture
def promtool():
    """Prometheus' own checker."""
    found = shutil.which("promtool")
    if not found:
        pytest.skip("no promtool: apt install prometheus")

    def run(*words: object) -> str:
        done = subprocess.run(
            [found, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def recorded() -> dict[str, set[str]]:
    """Return each family of the recorded server with its label names."""
    found: dict[str, set[str]] = {}
    for line in RECORDED.read_text().splitlines():
        sample = re.match(r"([\w:]+)(?:\{(.*)\})? ", line)
        if sample and not line.startswith("#"):
            labels = re.findall(r'(\w+)="', sample[2] or "")
            found.setdefault(sample[1], set()).update(labels)
    return found


def test_no_expression_makes_a_healthy_zero_of_a_missing_series():
    """Without the exporter, or its label, a panel must say that it knows nothing."""
    assert [expr for expr in expressions() if "vector(" in expr] == []


def expressions() -> list[str]:
    """Return every expression of the catalog."""
    known = rendering_catalog()
    panels = [query["expr"] for row in known.table("panels") for query in row["queries"]]
    return [*(row["expr"] for row in known.table("alerts")), *panels]


def test_every_series_has_a_row_and_every_row_is_used():
    used = {metric_row(name)["id"] for expr in expressions() for name in series_in(expr)}
    assert used == {row["id"] for row in rendering_catalog().table("metrics")}


def test_every_series_of_vllm_is_in_a_real_metrics_text():
    """Names, kinds and labels as a running vLLM 0.32.0 says them."""
    families = recorded()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)", RECORDED.read_text(), re.M))
    for row in rendering_catalog().table("metrics"):
        name = row["id"]
        if row["exporter"] != "vllm" or name in NOT_RECORDED:
            continue
        sample = f"{name}_bucket" if row["kind"] == "histogram" else name
        assert set(row["labels"]) <= families[sample], name
        assert kinds[name] == row["kind"]


def test_limits_of_latency_are_boundaries_of_the_histogram():
    """A quantile between two boundaries is a guess, so a threshold is one of them."""
    text = RECORDED.read_text()
    for row in rendering_catalog().table("alerts"):
        if "_bucket" not in row["expr"]:
            continue
        name = series_in(row["expr"])[0]
        bounds = {float(le) for le in re.findall(rf'^{name}\{{[^}}]*le="([\d.]+)"', text, re.M)}
        assert set(row["limit"].values()) <= bounds, row["id"]


@pytest.mark.parametrize("case", CASES)
def test_promtool(case, tmp_path, promtool):
    for name, text in render("prometheus", deployment(case), RenderOptions()).items():
        (tmp_path / name).write_text(text)
    said = promtool("check", "config", tmp_path / "prometheus.yml")
    rules = yaml.safe_load((tmp_path / "alerts.yml").read_text())["groups"][0]["rules"]
    assert f"{len(rules)} rules found" in said


@pytest.mark.parametrize("case", CASES)
def test_every_server_and_device_node_is_scraped_once(case):
    whole = deployment(case)
    files = render("prometheus", whole, RenderOptions())
    jobs = {
        job["job_name"]: job["static_configs"]
        for job in yaml.safe_load(files["prometheus.yml"])["scrape_configs"]
    }
    scraped = sorted(target for each in jobs["vllm"] for target in each["targets"])
    served = sorted(
        f"{node.address}:{process.ports[0].port}"
        for node, process in whole.processes()
        if process.ready and process.role != "router"
    )
    assert scraped == served
    exporter = "npu-exporter" if whole.nodes[0].plan.profile == "ascend" else "dcgm-exporter"
    assert len(jobs[exporter]) == len(whole.nodes)
    router = whole.router()
    told = router is not None and "--prometheus-port" in router[1].argv
    assert ("vllm-router" in jobs) == told
    labels = [each["labels"] for static in jobs.values() for each in static]
    assert {each["deployment"] for each in labels} == {whole.topology.name}


def dashboard(case: str) -> dict:
    """Return the dashboard of a case."""
    (text,) = render("grafana", deployment(case), RenderOptions()).values()
    return json.loads(text)


@pytest.mark.parametrize("case", CASES)
def test_dashboard_panels_do_not_overlap(case):
    panels = dashboard(case)["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("case", CASES)
def test_dashboard_queries_are_promql(case, tmp_path, promtool):
    """Every query as the expression of a rule, so that promtool parses it."""
    queries = [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in dashboard(case)["panels"]
        for target in panel.get("targets", [])
    ]
    rules = [{"record": f"check:{n}", "expr": expr} for n, expr in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", path)


def test_dashboard_reads_into_grafanas_own_model():
    """The model that Grafana generates from its schema takes every key and gives it back."""
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="pip install grafana-foundation-sdk"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    for case in ("a3", "pd-h200"):
        made = dashboard(case)
        read = models.Dashboard.from_json(made)
        again = json.loads(JSONEncoder().encode(read))
        assert set(made) <= set(again)
        assert [panel["title"] for panel in again["panels"]] == [
            panel["title"] for panel in made["panels"]
        ]


def test_sections_follow_the_deployment():
    def sections(case: str) -> list[str]:
        return [panel["title"] for panel in dashboard(case)["panels"] if panel["type"] == "row"]

    common = ["Overview", "Latency", "Tokens and requests", "Queue", "KV cache"]
    assert sections("a3") == [*common, "Speculation", "NPUs"]
    assert sections("pd-h200") == [*common, "GPUs"]


def test_a_release_without_a_series_has_no_alert_on_it():
    facts = watched(deployment("a3"))
    old = replace(facts, vllm="0.13.0")
    gone = {row["id"] for row in facts.rows("panels")} - {row["id"] for row in old.rows("panels")}
    assert gone == {"waiting-why"}


SELECT = 'deployment="{}",group="server",process="server-0-0",node="node",engine="0"'
#: Series, as promtool's tests write them: five minutes that count, then nothing new.
FIRED = {
    "EngineHung": (
        "a3",
        {
            "vllm:num_requests_running": "3x40",
            "vllm:generation_tokens_total": "100x40",
            "vllm:prompt_tokens_total": "100x40",
        },
        "20m",
    ),
    "SpeculationRejected": (
        "a3",
        {
            "vllm:spec_decode_num_draft_tokens_total": "0+600x80",
            "vllm:spec_decode_num_accepted_tokens_total": "0+60x80",
        },
        "60m",
    ),
    "QueueLongerThanBatch": (
        "a3",
        {"vllm:num_requests_waiting": "9x40", "vllm:num_requests_running": "4x40"},
        "20m",
    ),
    "KvCacheNearlyFull": ("a3", {"vllm:kv_cache_usage_perc": "0.99x40"}, "20m"),
    "NpuUnhealthy": ("a3", {"npu_chip_info_health_status": "1x5 0x30"}, "15m"),
    "NpuMemoryErrors": (
        "a3",
        {"npu_chip_info_hbm_ecc_double_bit_error_cnt": "0x5 2x30"},
        "10m",
    ),
    "DeploymentDown": ("a3", {}, "5m"),
    "KvTransfersFail": ("pd-h200", {"vllm:nixl_num_failed_transfers_total": "0x5 3x20"}, "8m"),
}
CALM = {
    "EngineHung": {
        "vllm:num_requests_running": "3x40",
        "vllm:generation_tokens_total": "0+50x40",
        "vllm:prompt_tokens_total": "100x40",
    },
    "SpeculationRejected": {
        "vllm:spec_decode_num_draft_tokens_total": "0+600x80",
        "vllm:spec_decode_num_accepted_tokens_total": "0+540x80",
    },
    "QueueLongerThanBatch": {
        "vllm:num_requests_waiting": "3x40",
        "vllm:num_requests_running": "4x40",
    },
    "KvCacheNearlyFull": {"vllm:kv_cache_usage_perc": "0.8x40"},
    "NpuUnhealthy": {"npu_chip_info_health_status": "1x40"},
    "NpuMemoryErrors": {"npu_chip_info_hbm_ecc_double_bit_error_cnt": "7x40"},
    "DeploymentDown": {"up": "1x20"},
    "KvTransfersFail": {"vllm:nixl_num_failed_transfers_total": "3x20"},
}


def series(name: str, values: dict[str, str]) -> list[dict[str, str]]:
    """Return series of a deployment's only server, for promtool."""
    select = SELECT.format(name)
    return [{"series": f"{metric}{{{select}}}", "values": text} for metric, text in values.items()]


@pytest.mark.parametrize("alert", FIRED)
@pytest.mark.parametrize("fires", [True, False])
def test_alerts_fire_when_they_should(alert, fires, tmp_path, promtool):
    """Prometheus' own rule tests: the fault fires the alert, the healthy server doesn't."""
    case, bad, at = FIRED[alert]
    whole = deployment(case)
    text = render("prometheus", whole, RenderOptions())["alerts.yml"]
    rules = yaml.safe_load(text)
    (rule,) = [each for each in rules["groups"][0]["rules"] if each["alert"] == alert]
    # Which alerts fire is the question, not their wording: annotations have templates.
    rule["annotations"] = {}
    rules["groups"][0]["rules"] = [rule]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    check = {
        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
        "eval_time": at,
        "exp_samples": [{"value": 1 if fires else 0, "labels": "{}"}],
    }
    test = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series(whole.topology.name, bad if fires else CALM[alert]),
                "promql_expr_test": [check],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yml")
