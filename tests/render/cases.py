"""The deployments that the renderings are tested with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ascend_v4.catalog.load import catalog
from ascend_v4.core.request import LaunchRequest
from ascend_v4.render.single import topology_of
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.read import read_topology

HERE = Path(__file__).parent
KEY_FILE = "/etc/ascend-v4/api-key"
REQUESTS = {
    "a3": LaunchRequest(chip="a3", model_dir="/models/flash", api_key_file=KEY_FILE),
    "4xh200": LaunchRequest(chip="h200", devices=4, model_dir="/models/flash"),
}
#: Those that have golden folders.
CASES = ("a3", "a3-1p1d", "pro-2xa3", "4xh200")
#: Those that are validated and run too.
MORE = (*CASES, "2p2d-of-two", "shared-h200")


@cache
def deployment(case: str) -> Deployment:
    """Return the planned deployment of a case."""
    if case in REQUESTS:
        return deploy(topology_of(REQUESTS[case], "flash"), catalog())
    return deploy(read_topology(str(HERE / "topologies" / f"{case}.yaml")).topology, catalog())
