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
from .k8s_common import (
    PRESTOP_S,
    config_map,
    labels,
    metadata,
    model_of,
    network_policy,
    node_affinity,
    pod_monitor,
    probe_name,
    pull_secrets,
    resources,
    router_objects,
    secret_env,
    secret_name,
    security,
    service,
    volumes,
)
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
    """Return what to say about pods that are not privileged, and about a missing API key."""
    found = [] if options.privileged else unprivileged(deployment.nodes[0].plan)
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
    return found


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the manifests, one file for each object."""
    pods = pods_of(deployment, options)
    plan = pods.deployment.nodes[0].plan
    servers = [p for group in pods.groups for found in group.processes.values() for p in found]
    model = model_of(servers)
    ports = sorted({port for group in pods.groups for port in api_ports(group)})
    names = max((port_names(group) for group in pods.groups), key=len)
    objects: dict[str, dict[str, Any]] = {"probe.yaml": config_map(deployment, options)}
    for group in pods.groups:
        objects[f"lws-{group.group.name}.yaml"] = worker_set(pods, group, plan, options, model)
    if pods.router:
        for made in router_objects(pods.deployment, options, pods.router, model):
            objects["router.yaml"] = made
        entry = labels(deployment, "router")
        ports = sorted({*ports, pods.router.ports[0].port})
    else:
        only = pods.groups[0]
        entry = {**labels(deployment, only.group.name), **head_label(only)}
    target = "http" if pods.router else "api-0"
    objects["service.yaml"] = service(deployment, options, entry, target)
    objects["podmonitor.yaml"] = pod_monitor(deployment, options, names)
    objects["networkpolicy.yaml"] = network_policy(deployment, options, ports)
    top = header(deployment, "k8s-lws", f"kubectl apply --namespace {options.namespace} -f .")
    return {name: document(made, top) for name, made in objects.items()}


def head_label(group: PodGroup) -> dict[str, str]:
    """Return what selects the pods that have an API: leaders alone, if workers have none."""
    with_api = any(process.ready for found in group.workers().values() for process in found)
    return {} if with_api else {"leaderworkerset.sigs.k8s.io/worker-index": "0"}


def api_ports(group: PodGroup) -> list[int]:
    """Return the API ports of a group's pods."""
    first = next(iter(group.heads().values()))
    return [process.ports[0].port for process in first if process.ready]


def port_names(group: PodGroup) -> list[str]:
    """Return the names of a pod's API ports."""
    return [f"api-{nth}" for nth in range(len(api_ports(group)))]


def worker_set(
    pods: Pods, group: PodGroup, plan: LaunchPlan, options: RenderOptions, model: str
) -> dict[str, Any]:
    """Return the LeaderWorkerSet of a group."""
    deployment = pods.deployment
    leader = template(pods, group, plan, options, model, group.heads())
    workers = group.workers()
    worker = template(pods, group, plan, options, model, workers) if workers else leader
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
    plan: LaunchPlan,
    options: RenderOptions,
    model: str,
    places: Mapping[Place, tuple[Process, ...]],
) -> dict[str, Any]:
    """Return the pod template of leaders or workers."""
    processes = list(next(iter(places.values())))
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
    made |= resources(plan, devices, options)
    made |= security(plan, processes[0], options)
    made["volumeMounts"] = mounts
    if ports:
        made |= probes(model, ports, deadline)
    pause = {"exec": {"command": ["/bin/sh", "-c", f"sleep {PRESTOP_S}"]}}
    made["lifecycle"] = {
        "preStop": Noted(pause, "Requests stop coming before the server stops taking them.")
    }
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
    grace = PRESTOP_S + grace_of(processes) + 15
    drain = max(process.drain_s for process in processes)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": Noted(False, "A Service named vllm would set VLLM_PORT."),
        "terminationGracePeriodSeconds": Noted(
            grace, f"{PRESTOP_S} s of preStop, {drain} s of drain, and time to end."
        ),
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
