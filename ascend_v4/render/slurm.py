"""A topology as one Slurm batch job: ``ascend-v4 cluster up``, with an srun for each node.

Which machines a job gets is known only when it starts, so the topology travels inside
the script with marks for them, and the script puts addresses and host names in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from ascend_v4.catalog.rendering import rendering_catalog
from ascend_v4.core.finding import Finding
from ascend_v4.topology.deployment import Deployment

from .bash import grace_of
from .common import header, quote
from .targets import RenderOptions
from .yamltext import document

__all__ = ["notes", "render"]

SBATCH = "https://slurm.schedmd.com/sbatch.html"
MEMORY = f"{SBATCH}#OPT_mem"

#: Accounts, limits and the name of the devices are the site's.
YOURS = ("*.sbatch",)
#: A job that serves has no end of its own; this is what most partitions still allow.
TIME_LIMIT = "1-00:00:00"
ADDRESS, HOST = "@ADDRESS:{}@", "@HOST:{}@"
#: One task with all memory and cores of a node, beside other steps of the job there; the
#: engine binds its cores itself.
STEP = "--nodes=1 --ntasks=1 --overlap --mem=0 --cpu-bind=none"

BODY = """\
set -euo pipefail

names=(<<names>>)
interfaces=(<<interfaces>>)

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if ((${#hosts[@]} < ${#names[@]})); then
  echo "the job has ${#hosts[@]} nodes, the topology ${#names[@]}" >&2
  exit 2
fi

address_of() { # HOST INTERFACE: the first IPv4 address of the interface, or of the host's name
  if [[ -n $2 ]]; then
    srun --nodelist="$1" <<step>> \\
      ip -4 -o addr show dev "$2" scope global </dev/null |
      awk '{print $4}' | cut -d/ -f1
  else
    getent ahostsv4 "$1" | awk '{print $1}'
  fi | sed -n 1p
}

# Marks stand for the machines; they are filled in below. The file is what
# `ascend-v4 cluster status -f` wants, on this node.
topology=${TMPDIR:-/tmp}/<<job>>-$SLURM_JOB_ID.yaml
cat >"$topology" <<'TOPOLOGY'
<<document>>TOPOLOGY

for i in "${!names[@]}"; do
  address=$(address_of "${hosts[i]}" "${interfaces[i]}") || address=
  if [[ -z $address ]]; then
    echo "no IPv4 address of ${interfaces[i]:-the name} on ${hosts[i]}" >&2
    exit 17
  fi
  echo "${names[i]} is ${hosts[i]}, $address" >&2
  sed -i "s/@ADDRESS:${names[i]}@/$address/; s/@HOST:${names[i]}@/${hosts[i]}/" "$topology"
done

# One srun a node. srun can't pass a signal on without killing its step, so `cluster` tells
# the nodes to drain over their stdin; the first node to end ends the others.
exec ascend-v4 cluster up -f "$topology"
"""


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what to say about a router on an address that no machine of the job need have."""
    host = deployment.topology.router.host
    addresses = {planned.node.address for planned in deployment.nodes}
    if deployment.router() is None or host in addresses or on_any_machine(host):
        return []
    text = f"router.host is {host}, which the machine that the job gets for it may not have"
    fix = "0.0.0.0 or the address of the router's node, which the job fills in"
    return [Finding("router-host-fixed", "warn", text, f"router.host: {fix}", SBATCH)]


def on_any_machine(host: str) -> bool:
    """Whether every machine has the address: loopback, or all of its addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return ``<name>.sbatch``."""
    name = deployment.topology.name
    notes = header(
        deployment,
        "slurm",
        f"Submit with: sbatch {name}.sbatch",
        "Every node needs ascend-v4 and the engine on its PATH, and the weights at the same place.",
        "To stop with draining: scancel --signal=TERM --batch JOBID. A plain scancel leaves only"
        " KillWait (30 s by default) before everything is killed.",
    )
    top = [
        "#!/bin/bash",
        *(f"# {line}".rstrip() for line in notes),
        *directives(deployment, options),
    ]
    return {f"{name}.sbatch": "\n".join([*top, "", body(deployment)])}


def directives(deployment: Deployment, options: RenderOptions) -> list[str]:
    """Return the ``#SBATCH`` lines, each with its reason above where it needs one."""
    grace = grace_of([process for _, process in deployment.processes()])
    lines = [
        f"#SBATCH --job-name={deployment.topology.name}",
        f"#SBATCH --nodes={len(deployment.nodes)}",
        "#SBATCH --ntasks-per-node=1",
        "# Ports, shared memory and HCCL's buffers are the node's: nothing else may run there.",
        "#SBATCH --exclusive",
        f"# --exclusive alone gives the site's default memory; 0 is all of a node's ({MEMORY}).",
        "#SBATCH --mem=0",
        *device_lines(deployment),
        "# A serving job ends at its limit; raise it to the partition's (sinfo -o '%P %l').",
        f"#SBATCH --time={TIME_LIMIT}",
        f"# This script alone gets TERM {grace + 15} s before the limit: time to drain.",
        f"#SBATCH --signal=B:TERM@{grace + 15}",
        "# A deployment that failed wants a look, not another try.",
        "#SBATCH --no-requeue",
        "#SBATCH --output=%x-%j.log",
    ]
    if options.partition:
        lines.insert(2, f"#SBATCH --partition={options.partition}")
    return lines


def device_lines(deployment: Deployment) -> list[str]:
    """Return how the job asks for the devices of its nodes; none on CPUs."""
    profile = deployment.nodes[0].plan.profile
    per_node = [
        len({device for process in planned.plan.processes for device in process.devices})
        for planned in deployment.nodes
    ]
    for row in rendering_catalog().table("slurm_devices"):
        if profile in row["profiles"] and max(per_node):
            asked = row["option"].format(devices=max(per_node))
            return [f"# {row['reason']} ({row['source']})", f"#SBATCH {asked}"]
    return []


def body(deployment: Deployment) -> str:
    """Return the script below the directives."""
    nodes = [planned.node for planned in deployment.nodes]
    words = {
        "names": " ".join(quote(node.name) for node in nodes),
        "interfaces": " ".join(double_quoted(node.interface) for node in nodes),
        "step": STEP,
        "job": deployment.topology.name,
        "document": document(topology_data(deployment)),
    }
    return re.sub(r"<<(\w+)>>", lambda found: words[found[1]], BODY)


def double_quoted(text: str) -> str:
    """Return a shell word in double quotes, as a reader would write it."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", text) + '"'


def topology_data(deployment: Deployment) -> Mapping[str, Any]:
    """Return the topology as it was written, marks where its machines stand."""
    data: dict[str, Any] = deployment.topology.model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )
    used = {planned.node.name for planned in deployment.nodes}
    nodes = [node for node in data["nodes"] if node["name"] in used]
    for node in nodes:
        node["address"] = ADDRESS.format(node["name"])
        host = HOST.format(node["name"])
        node["connect"] = f"exec: srun --nodelist={host} {STEP} --unbuffered"
    marked = {
        planned.node.address: ADDRESS.format(planned.node.name) for planned in deployment.nodes
    }
    router = data.get("router", {})
    if router.get("host") in marked:
        data["router"] = {**router, "host": marked[router["host"]]}
    return {**data, "nodes": nodes}
