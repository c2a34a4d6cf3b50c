"""What every Kubernetes rendering shares: labels, resources, secrets, volumes, rights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.deployment import Deployment

from .bash import grace_of
from .common import resource_name
from .docker import fabric_row, named_files, needs_of
from .k8s_probe import FOLDER, PROBE, shell_words
from .targets import RenderOptions
from .yamltext import Noted

__all__ = [
    "FOLDER",
    "PRESTOP_S",
    "PROBE",
    "config_map",
    "device_plugin",
    "grace_period",
    "labels",
    "metadata",
    "model_of",
    "node_affinity",
    "pause",
    "probe_name",
    "pull_secrets",
    "resources",
    "secret_env",
    "secret_name",
    "security",
    "volumes",
]

#: Seconds between a pod's leaving its Service and TERM: load balancers take a moment.
PRESTOP_S = 10


def labels(deployment: Deployment, component: str = "") -> dict[str, str]:
    """Return the labels that select the deployment's pods, or those of one component."""
    found = {
        "app.kubernetes.io/name": "ascend-v4",
        "app.kubernetes.io/instance": deployment.topology.name,
    }
    return {**found, "app.kubernetes.io/component": component} if component else found


def device_plugin(plan: LaunchPlan, options: RenderOptions) -> Row | None:
    """Return the catalog row of the device plugin; None on a CPU.

    Raises AscendV4Error (usage) for a plugin that has not the plan's chip.
    """
    known = catalog()
    names = {known.chip(plan.chip)["id"], plan.profile}
    rows = [row for row in known.table("device_plugins") if names & set(row["chips"])]
    asked = [row for row in rows if options.device_plugin in ("", row["id"])]
    if rows and not asked:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-device-plugin",
            f"--device-plugin {options.device_plugin}: {plan.chip} has"
            f" {', '.join(row['id'] for row in rows)}",
            "ascend-v4 render --help",
        )
    return asked[0] if asked else None


def resources(
    plan: LaunchPlan, count: int, options: RenderOptions, *, fabric: bool = False
) -> dict[str, Any]:
    """Return the devices of a container, as limits and requests; with ``fabric`` one for RDMA."""
    row = device_plugin(plan, options)
    if row is None or not count:
        return {}
    name = options.device_resource or row["resource"]
    why = f"{row['unit']} each, as the plugin {row['id']} counts ({row['source']})"
    asked = {name: count}
    if fabric and options.rdma_resource and fabric_row(plan):
        asked[options.rdma_resource] = 1
    return {"resources": {"limits": Noted(asked, why), "requests": asked}}


def node_affinity(plan: LaunchPlan, options: RenderOptions) -> dict[str, Any]:
    """Return the node selection by chip, where the plugin's labels tell it."""
    row = device_plugin(plan, options)
    values = (row or {}).get("label_values", {}).get(catalog().chip(plan.chip)["id"])
    if row is None or not values:
        return {}
    term = {"matchExpressions": [{"key": row["label"], "operator": "In", "values": values}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    why = f"Nodes with this chip ({row['source']})."
    return {"affinity": Noted({"nodeAffinity": required}, why)}


def secret_name(deployment: Deployment, options: RenderOptions) -> str:
    """Return the name of the Secret with the API key, ``""`` where there is no key."""
    keyed = any(process.secret_env for _, process in deployment.processes())
    return options.api_key_secret or (
        resource_name(deployment.topology.name, "api-key") if keyed else ""
    )


def secret_env(
    deployment: Deployment, options: RenderOptions, process: Process
) -> list[dict[str, Any]]:
    """Return the API key as variables from its Secret: the process's own, and the probe's."""
    name = secret_name(deployment, options)
    if not name:
        return []
    chosen = {"secretKeyRef": {"name": name, "key": "api-key"}}
    made = f"kubectl create secret generic {name} --namespace {options.namespace}"
    why = f"Made once, by hand: {made} --from-file=api-key=FILE"
    named = dict.fromkeys(["VLLM_API_KEY", *process.secret_env])
    first, *others = [{"name": variable, "valueFrom": chosen} for variable in named]
    return [Noted(first, why), *others]  # type: ignore[list-item]


def security(
    plan: LaunchPlan, process: Process, options: RenderOptions, *, fabric: bool = False
) -> dict[str, Any]:
    """Return the container's security context: all of the host only where asked."""
    if options.privileged:
        return {"securityContext": Noted({"privileged": True}, "asked for with --privileged")}
    needs = needs_of(plan, process, fabric=fabric)
    context: dict[str, Any] = {"allowPrivilegeEscalation": False}
    if needs.capabilities:
        policy = " and memory policy" if "SYS_NICE" in needs.capabilities else ""
        context["capabilities"] = Noted(
            {"add": list(needs.capabilities)},
            f"Locked memory{policy}; Kubernetes has no ulimit, so the container"
            " runtime's own memlock limit must be infinity.",
        )
    return {"securityContext": context}


def volumes(
    plan: LaunchPlan, process: Process
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a server pod's volumes and where its container mounts them."""
    needs = needs_of(plan, process)
    shared: dict[str, Any] = {"medium": "Memory"}
    if needs.shm_gib:
        shared["sizeLimit"] = f"{needs.shm_gib}Gi"
    made: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": shared},
        {"name": "probe", "configMap": {"name": "PROBE"}},
        {"name": "weights", "hostPath": {"path": plan.model_path, "type": "Directory"}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "probe", "mountPath": FOLDER, "readOnly": True},
        {"name": "weights", "mountPath": plan.model_path, "readOnly": True},
    ]
    files = dict.fromkeys(named_files(process))
    for nth, path in enumerate(files):
        why = "A variable names it, so the pod waits for a node that has it."
        made.append({"name": f"file-{nth}", "hostPath": Noted({"path": path, "type": "File"}, why)})
        mounts.append({"name": f"file-{nth}", "mountPath": path, "readOnly": True})
    for path in needs.mounts:
        if path in files:
            continue
        name = resource_name("host", path.strip("/").replace("/", "-").replace(".", "-").lower())
        name = name.replace("_", "-")
        made.append({"name": name, "hostPath": {"path": path}})
        mounts.append({"name": name, "mountPath": path, "readOnly": True})
    return made, mounts


def model_of(processes: Sequence[Process]) -> str:
    """Return the name clients ask for."""
    argv = next((p.argv for p in processes if "--served-model-name" in p.argv), ())
    return argv[argv.index("--served-model-name") + 1] if argv else ""


def pause(model: str = "", processes: Sequence[Process] = ()) -> dict[str, Any]:
    """Return the lifecycle of a container that waits until its Service has let go of it.

    Servers among ``processes`` that would cut what runs are waited for until they are idle.
    """
    text, why = f"sleep {PRESTOP_S}", "Requests stop coming before the server stops taking them."
    if cutting := [process for process in processes if process.cuts_requests]:
        ports = [process.ports[0].port for process in cutting]
        longest = max(process.drain_s for process in cutting)
        text += f"; exec {shell_words(f'idle:{longest}', model, ports)}"
        why += " Before several ranks vLLM cuts what still runs."
    return {"preStop": Noted({"exec": {"command": ["/bin/sh", "-c", text]}}, why)}


def grace_period(processes: list[Process]) -> Noted:
    """Return the seconds that a pod has to end."""
    drain = max(process.drain_s for process in processes)
    idle = max((process.drain_s for process in processes if process.cuts_requests), default=0)
    waits = f" and at most {idle} s until nothing runs" if idle else ""
    return Noted(
        PRESTOP_S + idle + grace_of(processes) + 15,
        f"{PRESTOP_S} s of preStop{waits}, {drain} s of drain, and time to end.",
    )


def config_map(deployment: Deployment, options: RenderOptions) -> dict[str, Any]:
    """Return the ConfigMap with the probe."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(deployment, options, resource_name(deployment.topology.name, "probe")),
        "data": {"probe.py": PROBE},
    }


def metadata(
    deployment: Deployment, options: RenderOptions, name: str, component: str = ""
) -> dict[str, Any]:
    """Return an object's metadata."""
    return {
        "name": name,
        "namespace": options.namespace,
        "labels": labels(deployment, component),
    }


def probe_name(deployment: Deployment) -> str:
    """Return the name of the ConfigMap with the probe."""
    return resource_name(deployment.topology.name, "probe")


def pull_secrets(options: RenderOptions) -> dict[str, Any]:
    """Return the registry's Secret, if one was named."""
    name = options.image_pull_secret
    return {"imagePullSecrets": [{"name": name}]} if name else {}
