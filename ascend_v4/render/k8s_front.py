"""What stands around the pods of a deployment on Kubernetes: who may reach, scrape and ask them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ascend_v4.core.plan import Process
from ascend_v4.topology.deployment import Deployment

from .common import ROUTER_PACKAGE, resource_name, unexpanded
from .k8s_common import (
    FOLDER,
    grace_period,
    labels,
    metadata,
    pause,
    probe_name,
    pull_secrets,
    secret_env,
)
from .k8s_pods import Pods, api_ports, port_names
from .k8s_probe import probe_command
from .targets import RenderOptions
from .yamltext import Noted

__all__ = ["around", "pod_monitor"]

#: Kubernetes' name of the node, as in alerts and legends.
NODE = {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
PYTHON_IMAGE = "python:3.12-slim"
#: The name of the router's second port, and of its scrape job as in prometheus.yml.
METRICS, JOB = "metrics", "vllm-router"


def around(
    pods: Pods, options: RenderOptions, model: str, entry: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the router, if there is one, and what clients and Prometheus come through.

    By file; ``entry`` selects the pods that clients reach where there is no router.
    """
    deployment, router = pods.deployment, pods.router
    ports = {port for group in pods.groups for port in api_ports(group)}
    names = sorted({name for group in pods.groups for name in port_names(group)}, key=len)
    objects = {}
    target = "api-0"
    if router:
        objects["router.yaml"] = router_object(deployment, options, router, model)
        ports |= {port.port for port in router.ports}
        entry, target = labels(deployment, "router"), "http"
    watched = router is not None and len(router.ports) > 1
    return {
        **objects,
        "service.yaml": service(deployment, options, entry, target),
        "podmonitor.yaml": pod_monitor(deployment, options, names, router=watched),
        "networkpolicy.yaml": network_policy(deployment, options, sorted(ports)),
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
    deployment: Deployment, options: RenderOptions, ports: Sequence[str], *, router: bool = False
) -> dict[str, Any]:
    """Return the PodMonitor of the Prometheus operator; /metrics needs no API key.

    ``ports`` are the names of the servers' API ports; ``router`` adds the router's metrics.
    """
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
        NODE,
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
            "podMetricsEndpoints": [endpoint, router_endpoint()] if router else [endpoint],
        },
    }


def router_endpoint() -> dict[str, Any]:
    """Return how the router is scraped: under the job that its alert goes by."""
    relabelings = [
        {
            "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"],
            "targetLabel": "deployment",
        },
        NODE,
        {"targetLabel": "job", "replacement": JOB},
    ]
    return {"port": METRICS, "path": "/metrics", "interval": "15s", "relabelings": relabelings}


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


def router_object(
    deployment: Deployment, options: RenderOptions, router: Process, model: str
) -> dict[str, Any]:
    """Return the router's Deployment; its servers' names are those of their pods."""
    plan = deployment.nodes[0].plan
    port = router.ports[0].port
    packaged = router.argv[0] == "vllm-router"
    image = plan.image if not packaged else options.router_image or PYTHON_IMAGE
    install = packaged and not options.router_image
    words: list[Any] = [unexpanded(word) for word in router.argv]
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
        "ports": [
            {"name": name, "containerPort": each.port}
            for name, each in zip(("http", METRICS), router.ports, strict=False)
        ],
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [{"name": "probe", "mountPath": FOLDER, "readOnly": True}],
        "lifecycle": pause(),
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
        "terminationGracePeriodSeconds": grace_period([router]),
        **pull_secrets(options),
        "containers": [container],
        "volumes": [{"name": "probe", "configMap": {"name": probe_name(deployment)}}],
    }
    return {
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
