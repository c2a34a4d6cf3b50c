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
