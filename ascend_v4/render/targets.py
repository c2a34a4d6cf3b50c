"""The targets of ``ascend-v4 render``: one module each, loaded when it is asked for.

A target's module holds ``render(deployment, options) -> {relative path: text}``: pure,
so the same deployment and options give the same bytes. It may also hold
``notes(deployment, options) -> list[Finding]``: what to tell the user beside the files, and
``YOURS``: patterns of the files that the user is meant to edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from typing import TYPE_CHECKING

from .yours import marked

if TYPE_CHECKING:
    from ascend_v4.core.finding import Finding
    from ascend_v4.topology.deployment import Deployment

__all__ = ["TARGETS", "RenderOptions", "notes", "render", "yours"]

#: Target -> module.
TARGETS: dict[str, str] = {
    "bash": "ascend_v4.render.bash",
    "docker": "ascend_v4.render.docker_scripts",
    "systemd": "ascend_v4.render.systemd",
    "k8s-lws": "ascend_v4.render.k8s_lws",
    "compose": "ascend_v4.render.compose",
    "slurm": "ascend_v4.render.slurm",
    "k8s-deployment": "ascend_v4.render.k8s_deployment",
    "kthena": "ascend_v4.render.kthena",
    "prometheus": "ascend_v4.render.prometheus",
    "grafana": "ascend_v4.render.grafana",
}


@dataclass(frozen=True)
class RenderOptions:
    """What a rendering may be asked for; every target reads only what concerns it.

    ``device_plugin`` is an id of the catalog's ``device_plugins`` table (``""``: the usual
    one of the profile), ``device_resource`` a resource name of its own, ``rdma_resource``
    that of an RDMA device for pods that reach others. ``api_key_secret``
    names the Kubernetes Secret that holds the API key under the key ``api-key``; it is
    the deployment's own name where ``""``. ``runtime_class`` and ``image_pull_secret`` are
    left out where ``""``. ``router_image`` has vllm-router on its PATH; without it a Python
    image installs the package at start. ``service_user`` is who systemd runs the server as.
    """

    privileged: bool = False
    namespace: str = "default"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secret: str = ""
    device_plugin: str = ""
    device_resource: str = ""
    rdma_resource: str = ""
    runtime_class: str = ""
    api_key_secret: str = ""
    router_image: str = ""
    service_user: str = "root"
    partition: str = ""


def render(target: str, deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the files of a target by relative path, sorted by path."""
    made: Mapping[str, str] = import_module(TARGETS[target]).render(deployment, options)
    edited = yours(target, made)
    return {name: marked(made[name]) if name in edited else made[name] for name in sorted(made)}


def yours(target: str, names: Iterable[str]) -> frozenset[str]:
    """Return those of a target's files that a user is meant to edit."""
    patterns: tuple[str, ...] = getattr(import_module(TARGETS[target]), "YOURS", ())
    return frozenset(name for name in names if any(fnmatch(name, each) for each in patterns))


def notes(target: str, deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what a target has to say beside its files."""
    module = import_module(TARGETS[target])
    found: list[Finding] = module.notes(deployment, options) if hasattr(module, "notes") else []
    return found
