"""A topology for a cluster without LeaderWorkerSet: Deployments, or StatefulSets and Services.

Where nothing addresses a single pod (no router, one node a replica) a Deployment will do.
Otherwise pods need names and places: one StatefulSet holds a group's leaders and one each
replica's workers, named and numbered as LeaderWorkerSet does it, so that the same pod
templates serve both. https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_v4.core.finding import Finding
from ascend_v4.topology.deployment import Deployment

from . import k8s_lws as lws
from .common import header
from .k8s_common import config_map, labels, metadata, model_of
from .k8s_front import around
from .k8s_pods import PodGroup, Pods, pods_of
from .targets import RenderOptions
from .yamltext import Noted, document

__all__ = ["notes", "render"]

#: Tells leaders from the workers of each replica.
PLACE = "ascend-v4/place"
#: https://kubernetes.io/docs/reference/labels-annotations-taints/#apps-kubernetes-io-pod-index
POD_INDEX = "metadata.labels['apps.kubernetes.io/pod-index']"
NO_GROUP_RESTART = (
    "without LeaderWorkerSet nothing starts a replica's other pods anew when one of them ends;"
    " a rank that comes back alone does not find into a running group"
)


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what is missing without LeaderWorkerSet, beside its target's own notes."""
    found = lws.notes(deployment, options)
    if any(group.size > 1 for group in pods_of(deployment, options).groups):
        found.append(
            Finding(
                "no-group-restart",
                "risk",
                NO_GROUP_RESTART,
                "ascend-v4 render k8s-lws, or delete all pods of the replica when one restarts",
                "https://lws.sigs.k8s.io/docs/concepts/failure-handling/",
            )
        )
    return found


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the manifests, one file for each object."""
    pods = pods_of(deployment, options)
    model = model_of([p for g in pods.groups for found in g.processes.values() for p in found])
    objects: dict[str, dict[str, Any]] = {"probe.yaml": config_map(deployment, options)}
    for group in pods.groups:
        objects.update(group_objects(pods, group, options, model))
    entry = entry_labels(deployment, pods.groups[0])
    objects |= around(pods, options, model, entry)
    top = header(
        deployment,
        "k8s-deployment",
        f"kubectl apply --namespace {options.namespace} -f . (Kubernetes 1.28 or later)",
    )
    return {name: document(made, top) for name, made in objects.items()}


def entry_labels(deployment: Deployment, group: PodGroup) -> dict[str, str]:
    """Return what selects the pods that have an API."""
    found = labels(deployment, group.group.name)
    with_api = any(process.ready for each in group.workers().values() for process in each)
    return found if with_api or group.size == 1 else {**found, PLACE: "leader"}


def group_objects(
    pods: Pods, group: PodGroup, options: RenderOptions, model: str
) -> dict[str, dict[str, Any]]:
    """Return the objects of one group, by file."""
    name = group.group.name
    leader = lws.template(pods, group, options, model, group.heads())
    if group.size == 1 and pods.router is None and len(pods.groups) == 1:
        return {f"deployment-{name}.yaml": alone(pods, group, options, leader)}
    found = {
        f"headless-{name}.yaml": headless(pods.deployment, group, options),
        f"statefulset-{name}.yaml": leaders(pods, group, options, leader),
    }
    if group.workers():
        for index in range(group.group.replicas):
            worker = lws.template(pods, group, options, model, group.workers())
            made = workers(pods, group, options, worker, index)
            found[f"statefulset-{name}-{index}.yaml"] = made
    return found


def placed(template: dict[str, Any], variables: list[dict[str, Any]], place: str) -> dict[str, Any]:
    """Return a pod template whose place comes from ``variables`` instead of LeaderWorkerSet."""
    pod = template["spec"]
    server = pod["containers"][0]
    names = {variable["name"] for variable in variables} | {"LWS_GROUP_INDEX"}
    kept = [each for each in server["env"] if isinstance(each, Noted) or each["name"] not in names]
    server = {**server, "env": [*kept, *variables]}
    marks = {**template["metadata"]["labels"], **({PLACE: place} if place else {})}
    return {"metadata": {"labels": marks}, "spec": {**pod, "containers": [server]}}


def alone(
    pods: Pods, group: PodGroup, options: RenderOptions, template: dict[str, Any]
) -> dict[str, Any]:
    """Return the Deployment of servers that nobody calls by name."""
    mine = labels(pods.deployment, group.group.name)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(pods.deployment, options, group.name, group.group.name),
        "spec": {
            "replicas": group.group.replicas,
            "strategy": Noted({"type": "Recreate"}, "There are no spare devices."),
            "progressDeadlineSeconds": Noted(
                deadline(group) + 60, "A cold start; the usual 600 s would call it failed."
            ),
            "selector": {"matchLabels": mine},
            "template": placed(template, [], ""),
        },
    }


def deadline(group: PodGroup) -> int:
    """Return the seconds that a cold start of the group may take."""
    return max(process.deadline_s for found in group.processes.values() for process in found)


def headless(deployment: Deployment, group: PodGroup, options: RenderOptions) -> dict[str, Any]:
    """Return the Service that gives each pod of a group its name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(deployment, options, group.name, group.group.name),
        "spec": {
            "clusterIP": Noted("None", "Names of pods, no balancing."),
            "publishNotReadyAddresses": Noted(True, "Ranks meet before they are ready."),
            "selector": labels(deployment, group.group.name),
        },
    }


def leaders(
    pods: Pods, group: PodGroup, options: RenderOptions, template: dict[str, Any]
) -> dict[str, Any]:
    """Return the StatefulSet of a group's leaders: pod ``NAME-0`` leads replica 0."""
    host = f"$(POD_NAME).{group.name}.{options.namespace}.svc"
    variables: list[dict[str, Any]] = [
        lws.field("POD_NAME", "metadata.name"),
        lws.field("LWS_GROUP_INDEX", POD_INDEX),
        {"name": "LWS_WORKER_INDEX", "value": "0"},
        {"name": "LWS_LEADER_ADDRESS", "value": host},
    ]
    return stateful_set(
        pods,
        group,
        options,
        group.name,
        group.group.replicas,
        placed(template, variables, "leader"),
    )


def workers(
    pods: Pods, group: PodGroup, options: RenderOptions, template: dict[str, Any], index: int
) -> dict[str, Any]:
    """Return the StatefulSet of one replica's workers, numbered from 1."""
    name = f"{group.name}-{index}"
    variables: list[dict[str, Any]] = [
        {"name": "LWS_GROUP_INDEX", "value": str(index)},
        lws.field("LWS_WORKER_INDEX", POD_INDEX),
        {"name": "LWS_LEADER_ADDRESS", "value": f"{name}.{group.name}.{options.namespace}.svc"},
    ]
    made = placed(template, variables, f"workers-{index}")
    whole = stateful_set(pods, group, options, name, group.size - 1, made)
    whole["spec"]["ordinals"] = {"start": Noted(1, "0 is the leader.")}
    return whole


def stateful_set(
    pods: Pods,
    group: PodGroup,
    options: RenderOptions,
    name: str,
    replicas: int,
    template: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a StatefulSet whose pods all start at once."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(pods.deployment, options, name, group.group.name),
        "spec": {
            "serviceName": group.name,
            "replicas": replicas,
            "podManagementPolicy": Noted("Parallel", "Ranks wait for each other."),
            "updateStrategy": Noted(
                {"type": "OnDelete"}, "Delete all pods of a replica together to roll it."
            ),
            "selector": {"matchLabels": template["metadata"]["labels"]},
            "template": template,
        },
    }
