"""What every Kubernetes rendering shares: containers, probes, services, monitors, policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.deployment import Deployment

from .common import ROUTER_PACKAGE, resource_name
from .docker import needs_of
from .k8s_probe import FOLDER, PROBE, probe_command
from .targets import RenderOptions
from .yamltext import Noted

__all__ = [
    "FOLDER",
    "PRESTOP_S",
    "PROBE",
    "config_map",
    "device_plugin",
    "labels",
    "metadata",
    "model_of",
    "network_policy",
    "node_affinity",
    "pod_monitor",
    "probe_name",
    "pull_secrets",
    "resources",
    "router_objects",
    "secret_env",
    "secret_name",
    "security",
    "service",
    "volumes",
]

#: Seconds between a pod's leaving its Service and TERM: load balancers take a moment.
PRESTOP_S = 10
PYTHON_IMAGE = "python:3.12-slim"


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


def resources(plan: LaunchPlan, count: int, options: RenderOptions) -> dict[str, Any]:
    """Return the devices of a container, as limits and requests."""
    row = device_plugin(plan, options)
    if row is None or not count:
        return {}
    name = options.device_resource or row["resource"]
    why = f"{row['unit']} each, as the plugin {row['id']} counts ({row['source']})"
    return {"resources": {"limits": Noted({name: count}, why), "requests": {name: count}}}


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


def security(plan: LaunchPlan, process: Process, options: RenderOptions) -> dict[str, Any]:
    """Return the container's security context: all of the host only where asked."""
    if options.privileged:
        return {"securityContext": Noted({"privileged": True}, "asked for with --privileged")}
    needs = needs_of(plan, process)
    context: dict[str, Any] = {"allowPrivilegeEscalation": False}
    if needs.capabilities:
        context["capabilities"] = Noted(
            {"add": list(needs.capabilities)},
            "Locked memory and memory policy; Kubernetes has no ulimit, so the container"
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
    for path in needs.mounts:
        name = resource_name("host", path.strip("/").replace("/", "-").replace(".", "-").lower())
        name = name.replace("_", "-")
        made.append({"name": name, "hostPath": {"path": path}})
        mounts.append({"name": name, "mountPath": path, "readOnly": True})
    return made, mounts


def model_of(processes: Sequence[Process]) -> str:
    """Return the name clients ask for."""
    argv = next((p.argv for p in processes if "--served-model-name" in p.argv), ())
    return argv[argv.index("--served-model-name") + 1] if argv else ""


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


def service(
    deployment: Deployment,
    options: RenderOptions,
    selector: Mapping[str, str],
    target: str,
    port: int = 8000,
) -> dict[str, Any]:
    """Return the Service that clients talk to."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(deployment, options, resource_name(deployment.topology.name)),
        "spec": {
            "type": "ClusterIP",
            "selector": dict(selector),
            "ports": [{"name": "http", "port": port, "targetPort": target}],
        },
    }


def pod_monitor(
    deployment: Deployment, options: RenderOptions, ports: Sequence[str]
) -> dict[str, Any]:
    """Return the PodMonitor of the Prometheus operator; /metrics needs no API key."""
    named = {"deployment": "instance", "group": "component"}
    relabelings: list[Any] = [
        {
            "action": "keep",
            "sourceLabels": ["__meta_kubernetes_pod_container_port_name"],
            "regex": "|".join(sorted(ports, key=lambda port: (len(port), port))),
        },
        *(
            {
                "sourceLabels": [f"__meta_kubernetes_pod_label_app_kubernetes_io_{source}"],
                "targetLabel": label,
            }
            for label, source in named.items()
        ),
    ]
    endpoint = {
        "path": "/metrics",
        "interval": "15s",
        "relabelings": Noted(
            relabelings, "The labels that alerts and dashboard of `ascend-v4 render` go by."
        ),
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(deployment, options, resource_name(deployment.topology.name)),
        "spec": {
            "selector": {"matchLabels": labels(deployment)},
            "podMetricsEndpoints": [endpoint],
        },
    }


def network_policy(
    deployment: Deployment, options: RenderOptions, ports: Sequence[int]
) -> dict[str, Any]:
    """Return who may reach the pods: each other on all ports, others on the API's only."""
    mine = {"podSelector": {"matchLabels": labels(deployment)}}
    monitoring = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    }
    api = [{"protocol": "TCP", "port": port} for port in ports]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(deployment, options, resource_name(deployment.topology.name)),
        "spec": Noted(
            {
                "podSelector": {"matchLabels": labels(deployment)},
                "policyTypes": ["Ingress"],
                "ingress": [
                    Noted({"from": [mine]}, "Ranks, KV transfer, router: any port."),
                    Noted(
                        {"from": [{"podSelector": {}}, monitoring], "ports": api},
                        "Clients of this namespace, and Prometheus in `monitoring`.",
                    ),
                ],
            },
            "Pods on the node's own network are outside of this in most network plugins.",
        ),
    }


def router_objects(
    deployment: Deployment, options: RenderOptions, router: Process, model: str
) -> list[dict[str, Any]]:
    """Return the router's Deployment; its servers' names are those of their pods."""
    plan = deployment.nodes[0].plan
    port = router.ports[0].port
    packaged = router.argv[0] == "vllm-router"
    image = plan.image if not packaged else options.router_image or PYTHON_IMAGE
    install = packaged and not options.router_image
    words: list[Any] = list(router.argv)
    if install:
        start = f'pip install --quiet --no-cache-dir {ROUTER_PACKAGE} && exec "$@"'
        why = "Your own image with vllm-router in it (--router-image) starts without the network."
        words = [Noted("/bin/sh", why), "-c", start, "router", *words]
    keys = secret_env(deployment, options, router)
    container = {
        "name": "router",
        "image": image,
        "imagePullPolicy": options.image_pull_policy,
        "command": words,
        **({"env": keys} if keys else {}),
        "ports": [{"name": "http", "containerPort": port}],
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [{"name": "probe", "mountPath": FOLDER, "readOnly": True}],
        "readinessProbe": Noted(
            {
                **probe_command("generate", model, "127.0.0.1", [port]),
                "periodSeconds": 30,
                "timeoutSeconds": 60,
                "failureThreshold": 3,
            },
            "A token all the way: router, prefill, decode.",
        ),
    }
    spec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **pull_secrets(options),
        "containers": [container],
        "volumes": [{"name": "probe", "configMap": {"name": probe_name(deployment)}}],
    }
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(
            deployment, options, resource_name(deployment.topology.name, "router"), "router"
        ),
        "spec": {
            "replicas": Noted(1, "It holds which server has which prefix."),
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels(deployment, "router")},
            "template": {"metadata": {"labels": labels(deployment, "router")}, "spec": spec},
        },
    }
    return [made]


def probe_name(deployment: Deployment) -> str:
    """Return the name of the ConfigMap with the probe."""
    return resource_name(deployment.topology.name, "probe")


def pull_secrets(options: RenderOptions) -> dict[str, Any]:
    """Return the registry's Secret, if one was named."""
    name = options.image_pull_secret
    return {"imagePullSecrets": [{"name": name}]} if name else {}
