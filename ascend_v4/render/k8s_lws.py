"""A topology as LeaderWorkerSets: one for each group, a pod group for each replica.

https://lws.sigs.k8s.io/docs/overview/ and, for Ascend, the LeaderWorkerSet that
vllm-ascend's own nightly tests run (tests/e2e/nightly/multi_node/scripts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.topology.deployment import Deployment

from .bash import grace_of
from .common import header
from .docker import needs_of, unprivileged
from .fabric import missing_resource, needs_fabric
from .k8s_common import (
    config_map,
    grace_period,
    labels,
    metadata,
    model_of,
    node_affinity,
    pause,
    probe_name,
    pull_secrets,
    resources,
    secret_env,
    secret_name,
    security,
    volumes,
)
from .k8s_front import around
from .k8s_pods import Place, PodGroup, Pods, entries_of, pods_of
from .k8s_probe import probes
from .script import script
from .targets import RenderOptions
from .yamltext import Noted, document

__all__ = ["container", "notes", "pod_spec", "render"]

GROUP_INDEX = "metadata.labels['leaderworkerset.sigs.k8s.io/group-index']"
WAIT_FOR_HEAD = (
    "# The leader's address: sockets are opened on addresses, not names.",
    'until read -r HEAD_IP _ < <(getent ahostsv4 "$LWS_LEADER_ADDRESS"); do sleep 2; done',
    "export HEAD_IP",
)


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what to say about pods that are not privileged, and about an API without a key."""
    found = [] if options.privileged else unprivileged(deployment)
    found += missing_resource(deployment, options)
    found += address_of_pods(deployment)
    if not secret_name(deployment, options):
        found.append(
            Finding(
                "no-api-key",
                "warn",
                "the API has no key, and every pod of the namespace can reach it",
                "--api-key-secret NAME",
                "https://docs.vllm.ai/en/latest/usage/security/",
            )
        )
    if deployment.open_router:
        found.append(
            Finding(
                "router-asks-no-key",
                "risk",
                "the router asks clients for no key, with a Secret or without, and every pod of"
                " the namespace can reach it",
                "a gateway that asks for a key, and a NetworkPolicy that lets it alone reach"
                " the router",
                "https://docs.vllm.ai/en/latest/usage/security/",
            )
        )
    return found


def address_of_pods(deployment: Deployment) -> list[Finding]:
    """Return that pods on the node's network take the node's address, whatever the file says."""
    named = [planned.node for planned in deployment.nodes if planned.node.interface]
    if not named or len(deployment.nodes) < 2:
        return []
    return [
        Finding(
            "pod-address",
            "info",
            "pods use the address that Kubernetes knows a node by (status.podIP), not that of the"
            f" topology; it must be one of interface {named[0].interface}",
            "kubelet --node-ip on nodes where it is not",
            "https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/",
        )
    ]


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the manifests, one file for each object."""
    pods = pods_of(deployment, options)
    servers = [p for group in pods.groups for found in group.processes.values() for p in found]
    model = model_of(servers)
    objects: dict[str, dict[str, Any]] = {"probe.yaml": config_map(deployment, options)}
    for group in pods.groups:
        objects[f"lws-{group.group.name}.yaml"] = worker_set(pods, group, options, model)
    only = pods.groups[0]
    entry = {**labels(deployment, only.group.name), **head_label(only)}
    objects |= around(pods, options, model, entry)
    top = header(deployment, "k8s-lws", f"kubectl apply --namespace {options.namespace} -f .")
    return {name: document(made, top) for name, made in objects.items()}


def head_label(group: PodGroup) -> dict[str, str]:
    """Return what selects the pods that have an API: leaders alone, if workers have none."""
    with_api = any(process.ready for found in group.workers().values() for process in found)
    return {} if with_api else {"leaderworkerset.sigs.k8s.io/worker-index": "0"}


def worker_set(pods: Pods, group: PodGroup, options: RenderOptions, model: str) -> dict[str, Any]:
    """Return the LeaderWorkerSet of a group."""
    deployment = pods.deployment
    leader = template(pods, group, options, model, group.heads())
    workers = group.workers()
    worker = template(pods, group, options, model, workers) if workers else leader
    spec: dict[str, Any] = {"size": Noted(group.size, "Nodes of one replica.")}
    spec["restartPolicy"] = Noted(
        "RecreateGroupOnPodRestart", "A rank that starts anew needs its peers to start with it."
    )
    if workers:
        spec["leaderTemplate"] = leader
    spec["workerTemplate"] = worker
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(deployment, options, group.name, group.group.name),
        "spec": {
            "replicas": group.group.replicas,
            "startupPolicy": Noted("LeaderCreated", "The leader waits for its workers' ranks."),
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": Noted(
                    {"maxUnavailable": 1, "maxSurge": 0}, "There are no spare devices."
                ),
            },
            "leaderWorkerTemplate": spec,
        },
    }


def template(
    pods: Pods,
    group: PodGroup,
    options: RenderOptions,
    model: str,
    places: Mapping[Place, tuple[Process, ...]],
) -> dict[str, Any]:
    """Return the pod template of leaders or workers."""
    plan, processes = group.plan, list(next(iter(places.values())))
    needs = needs_of(plan, processes[0])
    entries = entries_of(pods, group, places)
    worker = next(iter(places))[0] > 0
    text = script(
        [f"{group.group.name}: {'workers' if worker else 'leaders'}"],
        entries,
        grace_of(processes),
        prepare=WAIT_FOR_HEAD if worker else (),
        shebang=False,
    )
    bash = ["/bin/bash", "-c"]
    inner: list[Any] = [*bash, text]
    if needs.entry:
        inner = [*bash, Noted(needs.entry, "CANN's paths."), "ascend-v4", *inner]
    made = {
        "name": "server",
        **container(pods.deployment, plan, processes, group.devices, options, model),
    }
    made["command"] = inner
    order = ("name", "image", "imagePullPolicy", "command")
    body = {**{key: made[key] for key in order}, **made}
    return {
        "metadata": {"labels": labels(pods.deployment, group.group.name)},
        "spec": pod_spec(pods.deployment, plan, processes, group.whole_node, options, body),
    }


def container(
    deployment: Deployment,
    plan: LaunchPlan,
    processes: list[Process],
    devices: int,
    options: RenderOptions,
    model: str,
) -> dict[str, Any]:
    """Return a server container, without name and command."""
    ready = [process for process in processes if process.ready]
    ports = [process.ports[0].port for process in ready]
    _, mounts = volumes(plan, processes[0])
    deadline = max(process.deadline_s for process in processes)
    made: dict[str, Any] = {
        "image": plan.image,
        "imagePullPolicy": options.image_pull_policy,
        "env": [
            field("POD_IP", "status.podIP"),
            field("LWS_GROUP_INDEX", GROUP_INDEX),
            *secret_env(deployment, options, processes[0]),
        ],
    }
    if ports:
        made["ports"] = [
            {"name": f"api-{nth}", "containerPort": port} for nth, port in enumerate(ports)
        ]
    fabric = needs_fabric(deployment, pods=True)
    made |= resources(plan, devices, options, fabric=fabric)
    made |= security(plan, processes[0], options, fabric=fabric)
    made["volumeMounts"] = mounts
    if ports:
        made |= probes(model, ports, deadline)
    made["lifecycle"] = pause(model, processes)
    return made


def field(name: str, path: str) -> dict[str, Any]:
    """Return a variable that the pod's own fields give."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def pod_spec(
    deployment: Deployment,
    plan: LaunchPlan,
    processes: list[Process],
    whole_node: bool,
    options: RenderOptions,
    server: dict[str, Any],
) -> dict[str, Any]:
    """Return the pod of a server container."""
    made, _ = volumes(plan, processes[0])
    for volume in made:
        if "configMap" in volume:
            volume["configMap"] = {"name": probe_name(deployment)}
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": Noted(False, "A Service named vllm would set VLLM_PORT."),
        "terminationGracePeriodSeconds": grace_period(processes),
        **pull_secrets(options),
    }
    if whole_node:
        spec["hostNetwork"] = Noted(True, "HCCL and KV transfer use the node's own interfaces.")
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"
    if options.runtime_class:
        spec["runtimeClassName"] = options.runtime_class
    return {
        **spec,
        **node_affinity(plan, options),
        "containers": [server],
        "volumes": made,
    }
