"""Files of the host that variables name: every container gets them, read-only."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.render.targets import RenderOptions, render
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.model import Topology

FILE = "/etc/mooncake/one.json"
CONTAINERS = ("docker", "compose", "k8s-lws", "k8s-deployment", "kthena")


@cache
def pooled(name: str, backend: str) -> Deployment:
    """Return one replica on each of two A3 nodes, in a KV pool whose file a variable names."""
    nodes = [{"name": n, "address": f"10.0.0.{i}", "interface": "eth0"} for i, n in enumerate("ab")]
    group = {"name": "s", "nodes": ["a", "b"], "replicas": 2,
             "data_parallel_size": 4, "tensor_parallel_size": 4}  # fmt: skip
    made = {"name": "pooled", "chip": "a3", "model_dir": "/models/flash", "nodes": nodes,
            "kv_pool": {"backend": backend}, "env": {name: FILE, "PYTHONHASHSEED": "0"},
            "groups": [group]}  # fmt: skip
    return deploy(Topology.model_validate(made), catalog())


def found(value: Any, wanted: dict[str, Any]) -> bool:
    """Whether a mapping with all of the wanted entries is anywhere in a document."""
    if isinstance(value, dict) and wanted.items() <= value.items():
        return True
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(found(each, wanted) for each in below)


@pytest.mark.parametrize("target", CONTAINERS)
@pytest.mark.parametrize(
    ("name", "backend"),
    [("MOONCAKE_CONFIG_PATH", "mooncake"), ("MMC_LOCAL_CONFIG_PATH", "memcache")],
)
def test_a_file_that_a_variable_names_is_mounted(target: str, name: str, backend: str) -> None:
    files = render(target, pooled(name, backend), RenderOptions())
    if target == "docker":
        scripts = [text for file, text in files.items() if file in ("a.sh", "b.sh")]
        assert [f"--volume {FILE}:{FILE}:ro" in text for text in scripts] == [True, True]
        return
    documents = [yaml.safe_load(text) for file, text in files.items() if file.endswith(".yaml")]
    if target == "compose":
        mount = {"source": FILE, "target": FILE, "read_only": True}
        assert [found(each, mount) for each in documents] == [True, True]
        return
    assert found(documents, {"hostPath": {"path": FILE, "type": "File"}})
    assert found(documents, {"mountPath": FILE, "readOnly": True})


def test_a_key_that_two_variables_hold_is_mounted_once():
    """On the node of the image's proxy: docker refuses two mounts at one place."""
    nodes = [{"name": n, "address": f"10.0.0.{i}", "interface": "eth0"} for i, n in enumerate("ab")]
    made = {"name": "pair", "chip": "a3", "model_dir": "/models/flash", "nodes": nodes,
            "options": {"api_key_file": "/etc/key"},
            "groups": [
                {"name": "p", "role": "prefill", "nodes": ["a"], "data_parallel_size": 4,
                 "tensor_parallel_size": 4},
                {"name": "d", "role": "decode", "nodes": ["b"], "data_parallel_size": 16,
                 "tensor_parallel_size": 1},
            ]}  # fmt: skip
    whole = deploy(Topology.model_validate(made), catalog())
    assert {name for _, p in whole.processes() for name in p.secret_env} == {
        "OPENAI_API_KEY",
        "VLLM_API_KEY",
    }
    for file, text in render("compose", whole, RenderOptions()).items():
        if file.endswith(".yaml"):
            services = yaml.safe_load(text)["services"].values()
            for service in services:
                targets = [each["target"] for each in service["secrets"]]
                assert targets == ["/etc/key"], file


@pytest.mark.parametrize(
    ("runtime", "after"),
    [
        ("native", "After=network-online.target"),
        ("docker", "After=network-online.target docker.service"),
        ("auto", "After=network-online.target docker.service"),
    ],
)
def test_a_unit_that_runs_containers_starts_after_docker(runtime: str, after: str) -> None:
    made = pooled("MOONCAKE_CONFIG_PATH", "mooncake").topology.model_dump(by_alias=True)
    whole = deploy(Topology.model_validate({**made, "runtime": runtime}), catalog())
    text = render("systemd", whole, RenderOptions())["a/ascend-v4-pooled.service"]
    assert after in text.splitlines()
