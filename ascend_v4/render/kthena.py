"""A topology for Kthena, Volcano's serving platform: ModelServing, ModelServer, ModelRoute.

Kthena's own router takes the place of ours. Fields are those of the definitions in release
1.0.0: https://github.com/volcano-sh/kthena/tree/v1.0.0/charts/kthena/charts, and for Ascend
https://docs.vllm.ai/projects/ascend/en/latest/user_guide/deployment_guide/using_volcano_kthena/
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ascend_v4.catalog.rendering import rendering_catalog
from ascend_v4.core.finding import Finding
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.deployment import Deployment

from . import k8s_lws as lws
from .common import header, resource_name
from .k8s_common import config_map, metadata, model_of
from .k8s_front import pod_monitor
from .k8s_pods import PodGroup, Pods, api_ports, pods_of, port_names
from .targets import RenderOptions
from .yamltext import Noted, document

__all__ = ["notes", "render"]

WORKLOAD = "workload.serving.volcano.sh/v1alpha1"
NETWORKING = "networking.serving.volcano.sh/v1alpha1"
#: Labels that Kthena puts on its pods.
LABEL = "modelserving.volcano.sh"
MAX_ROLES = 4
MAX_ROLE_NAME = 12
#: Kthena tells a pod its place under names of its own; the index of the replica is in the
#: pod's name, SERVING-GROUP-ROLE-INDEX-POD.
PLACE = (
    'role=${POD_NAME%-*}; export LWS_GROUP_INDEX="${role##*-}"'
    ' LWS_WORKER_INDEX="$WORKER_INDEX" LWS_LEADER_ADDRESS="$ENTRY_ADDRESS"; exec "$@"'
)


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return the notes of the pods, which are those of the LeaderWorkerSet, without our router."""
    return lws.notes(replace(deployment, open_router=False), options)


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the manifests, one file for each object.

    Raises AscendV4Error (refused) for what Kthena can't express.
    """
    pods = pods_of(deployment, options)
    refuse(pods)
    model = model_of([p for g in pods.groups for found in g.processes.values() for p in found])
    names = sorted({n for group in pods.groups for n in port_names(group)}, key=len)
    objects = {
        "probe.yaml": config_map(deployment, options),
        "modelserving.yaml": serving(pods, options, model),
        "modelserver.yaml": server(pods, options, model),
        "modelroute.yaml": route(pods.deployment, options, model),
        "podmonitor.yaml": pod_monitor(deployment, options, names),
    }
    top = header(
        deployment,
        "kthena",
        f"kubectl apply --namespace {options.namespace} -f . (Kthena 1.0.0 with Volcano)",
    )
    return {name: document(made, top) for name, made in objects.items()}


def refused(cause: str, step: str) -> AscendV4Error:
    """Return the error for a deployment that Kthena can't express."""
    return AscendV4Error(ExitCode.REFUSED, "not-for-kthena", cause, step)


def refuse(pods: Pods) -> None:
    """Raise AscendV4Error (refused) for roles, ports or connectors that Kthena hasn't."""
    if len(pods.groups) > MAX_ROLES:
        raise refused(
            f"{len(pods.groups)} groups, and a ModelServing has {MAX_ROLES} roles at most",
            "render k8s-lws",
        )
    for group in pods.groups:
        name, ports = group.group.name, api_ports(group)
        if len(name) > MAX_ROLE_NAME:
            raise refused(
                f"group {name}: the name of a role has {MAX_ROLE_NAME} characters at most",
                "give the group a shorter name",
            )
        if len(ports) > 1:
            raise refused(
                f"group {name}: {len(ports)} servers in a pod, and Kthena sends requests to one"
                " port of each pod",
                f"set load_balancing: internal for {name}, or render k8s-lws",
            )
    if len({port for group in pods.groups for port in api_ports(group)}) > 1:
        raise refused(
            "the groups listen on different ports, and a ModelServer has one for all",
            "give the groups the same port",
        )
    if pods.deployment.topology.disaggregated:
        connector(pods)


def connector(pods: Pods) -> str:
    """Return Kthena's word for the deployment's KV connector; raises as ``refuse``."""
    words = " ".join(word for _, process in pods.deployment.processes() for word in process.argv)
    rows = rendering_catalog().table("kthena_connectors")
    for row in rows:
        if f'"{row["connector"]}"' in words:
            return str(row["type"])
    known = ", ".join(row["connector"] for row in rows)
    raise refused(f"Kthena's router speaks to {known}", "set connector, or render k8s-lws")


def serving(pods: Pods, options: RenderOptions, model: str) -> dict[str, Any]:
    """Return the ModelServing: a role for each group, a role replica for each replica."""
    deployment = pods.deployment
    roles = []
    for group in pods.groups:
        role: dict[str, Any] = {
            "name": group.group.name,
            "replicas": group.group.replicas,
            "entryTemplate": placed(lws.template(pods, group, options, model, group.heads())),
            "workerReplicas": Noted(group.size - 1, "Nodes of a replica beside its first."),
        }
        if group.workers():
            role["workerTemplate"] = placed(
                lws.template(pods, group, options, model, group.workers())
            )
        roles.append(role)
    together = {group.group.name: group.group.replicas for group in pods.groups}
    return {
        "apiVersion": WORKLOAD,
        "kind": "ModelServing",
        "metadata": metadata(deployment, options, serving_name(deployment)),
        "spec": {
            "schedulerName": "volcano",
            "replicas": 1,
            "recoveryPolicy": Noted(
                "RoleRecreate", "A rank that starts anew needs its peers to start with it."
            ),
            "template": {
                "gangPolicy": Noted(
                    {"minRoleReplicas": together}, "All of it is placed, or nothing."
                ),
                "roles": roles,
            },
        },
    }


def serving_name(deployment: Deployment) -> str:
    """Return the name of the ModelServing and its companions."""
    return resource_name(deployment.topology.name)


def placed(template: dict[str, Any]) -> dict[str, Any]:
    """Return a pod template that learns its place from Kthena."""
    pod = template["spec"]
    server = pod["containers"][0]
    kept = [
        each
        for each in server["env"]
        if isinstance(each, Noted) or each["name"] != "LWS_GROUP_INDEX"
    ]
    env = [*kept, lws.field("POD_NAME", "metadata.name")]
    start = ["/bin/bash", "-c", Noted(PLACE, "The pod's place, from Kthena's variables."), "place"]
    made = {**server, "command": [*start, *server["command"]], "env": env}
    return {**template, "spec": {**pod, "containers": [made]}}


def server(pods: Pods, options: RenderOptions, model: str) -> dict[str, Any]:
    """Return the ModelServer: which pods take requests, and how prefill meets decode."""
    name = serving_name(pods.deployment)
    chosen: dict[str, Any] = {"matchLabels": {f"{LABEL}/name": name, f"{LABEL}/entry": "true"}}
    spec: dict[str, Any] = {
        "model": model,
        "inferenceEngine": "vLLM",
        "workloadPort": {"port": api_ports(pods.groups[0])[0], "protocol": "http"},
        "workloadSelector": chosen,
    }
    if pods.deployment.topology.disaggregated:
        sides = {group.group.role: group for group in pods.groups}
        chosen["pdGroup"] = {
            "groupKey": f"{LABEL}/group-name",
            "prefillLabels": role_label(sides["prefill"]),
            "decodeLabels": role_label(sides["decode"]),
        }
        spec["kvConnector"] = {"type": connector(pods)}
    return {
        "apiVersion": NETWORKING,
        "kind": "ModelServer",
        "metadata": metadata(pods.deployment, options, name),
        "spec": spec,
    }


def role_label(group: PodGroup) -> dict[str, str]:
    """Return what selects the pods of a role."""
    return {f"{LABEL}/role": group.group.name}


def route(deployment: Deployment, options: RenderOptions, model: str) -> dict[str, Any]:
    """Return the ModelRoute: requests for the model go to its ModelServer."""
    name = serving_name(deployment)
    return {
        "apiVersion": NETWORKING,
        "kind": "ModelRoute",
        "metadata": metadata(deployment, options, name),
        "spec": {
            "modelName": model,
            "rules": [{"name": "default", "targetModels": [{"modelServerName": name}]}],
        },
    }
