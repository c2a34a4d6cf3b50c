"""Whether containers of a deployment need the network between nodes, and what is said of it."""

from __future__ import annotations

from ascend_v4.core.finding import Finding
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.place import replica_nodes

from .docker import fabric_row
from .targets import RenderOptions

__all__ = ["missing_resource", "needs_fabric"]

#: In the KV connector's configuration: it moves KV over RDMA even within a node.
ONLY_RDMA = '"mooncake_protocol": "rdma"'


def needs_fabric(deployment: Deployment, *, pods: bool = False) -> bool:
    """Whether servers of the deployment reach each other over RDMA.

    Containers of one node are one container, with ``pods`` one each: what reaches no further
    than its container needs no network. Replicas that know nothing of each other need none.
    """
    topology = deployment.topology
    if any(len(nodes) > 1 for group in topology.groups for nodes in replica_nodes(topology, group)):
        return True
    servers = [(node.name, each) for node, each in deployment.processes() if each.role != "router"]
    if topology.disaggregated and (pods or len({node for node, _ in servers}) > 1):
        return True
    return any(ONLY_RDMA in word for _, process in servers for word in process.argv)


def missing_resource(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return the risk of pods that need RDMA and ask for no device of it."""
    rows = [row for planned in deployment.nodes if (row := fabric_row(planned.plan))]
    asked = options.rdma_resource or options.privileged
    if asked or not rows or not needs_fabric(deployment, pods=True):
        return []
    row = rows[0]
    fix = f"--rdma-resource NAME, as the cluster's RDMA plugin calls it: {row['resource']} or so"
    confidence = row["confidence"]
    return [Finding("no-rdma", "risk", row["risk"], fix, row["source"], confidence=confidence)]
