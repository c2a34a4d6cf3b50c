"""``ascend-v4 render``: a deployment as files for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option, launch_options, request_of
from .output import print_findings, print_json, print_result, status
from .planning import host_of

if TYPE_CHECKING:
    from ascend_v4.core.request import LaunchRequest
    from ascend_v4.topology.deployment import Deployment

__all__ = ["command"]

#: The targets, stated here so that ``--help`` imports no renderer; a test compares.
TARGETS = (
    "bash",
    "docker",
    "systemd",
    "k8s-lws",
    "compose",
    "slurm",
    "k8s-deployment",
    "kthena",
    "prometheus",
    "grafana",
)


def rfc1123(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Return a name that Kubernetes takes; raises BadParameter for another."""
    import re

    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise click.BadParameter(f"'{value}' is no name of Kubernetes (a-z, 0-9 and -).")
    return value


@click.command("render")
@click.argument("target", type=click.Choice(TARGETS), metavar="TARGET")
@click.option(
    "-f", "--topology", type=click.Path(), metavar="FILE", help="Topology, instead of one node."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write files there.",
)
@click.option("--force", is_flag=True, help="With -o: overwrite your files and edits.")
@click.option("--name", metavar="NAME", help="Name of the deployment, where no topology says it.")
@click.option("--privileged", is_flag=True, help="Containers get the whole host.")
@click.option(
    "--namespace",
    default="default",
    show_default=True,
    callback=rfc1123,
    help="Kubernetes namespace.",
)
@click.option(
    "--image-pull-policy",
    type=click.Choice(["IfNotPresent", "Always", "Never"]),
    default="IfNotPresent",
    show_default=True,
    help="Kubernetes' imagePullPolicy.",
)
@click.option("--image-pull-secret", default="", metavar="NAME", help="Secret of the registry.")
@click.option(
    "--device-plugin", default="", metavar="ID", help="Kubernetes device plugin: huawei-cce, …"
)
@click.option("--device-resource", default="", metavar="NAME", help="Its resource, if another.")
@click.option(
    "--rdma-resource", default="", metavar="NAME", help="Resource of an RDMA device (GPUs)."
)
@click.option("--runtime-class", default="", metavar="NAME", help="Kubernetes runtimeClassName.")
@click.option("--api-key-secret", default="", metavar="NAME", help="Secret with key api-key.")
@click.option("--router-image", default="", metavar="IMAGE", help="Image that has vllm-router.")
@click.option(
    "--service-user", default="root", show_default=True, metavar="USER", help="User of the unit."
)
@click.option("--partition", default="", metavar="NAME", help="Slurm partition.")
@json_option
@launch_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    target: str,
    topology: str | None,
    output: Path | None,
    force: bool,
    name: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Render a deployment for another runtime.

    TARGET: bash, docker, systemd, k8s-lws, compose, slurm, k8s-deployment, kthena,
    prometheus or grafana. With -f the topology's nodes, else one node of the launch
    options. Nothing here looks at this host. Without -o the files are printed, each under
    a line `# file: NAME`.
    """
    from ascend_v4.render.folder import write
    from ascend_v4.render.targets import RenderOptions, notes, render, yours

    deployment = deployed(ctx, topology, name)
    wanted = RenderOptions(**{key: options[key] for key in RenderOptions.__dataclass_fields__})
    files = render(target, deployment, wanted)
    print_findings(note for note in notes(target, deployment, wanted))
    if output is not None:
        made = write(files, output, yours(target, files), force=force)
        print_findings(made.notes)
        status(f"{len(made.paths)} files in {output}")
        paths = [str(path) for path in made.paths]
        if as_json:
            print_json({"files": paths, "kept": [str(path) for path in made.kept]})
        else:
            print_result("\n".join(paths))
    elif as_json:
        print_json({"target": target, "files": files})
    else:
        print_files(files)


def deployed(ctx: click.Context, path: str | None, name: str | None) -> Deployment:
    """Return the planned deployment of the topology, or of the launch options.

    Raises AscendV4Error (refused) when a plan breaks a rule or the whole a check.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.paths import models_dir
    from ascend_v4.render.single import topology_of
    from ascend_v4.topology.check import planned, refuse
    from ascend_v4.topology.deploy import deploy
    from ascend_v4.topology.read import read_topology

    request = request_of(ctx)
    models = str(models_dir(host_of(ctx).env))
    if path is not None:
        one_source(request, name)
        deployment = planned(read_topology(path), catalog(), models)
        tell_model_dir(deployment)
    else:
        deployment = deploy(topology_of(request, name or ""), catalog(), models)
        refuse(deployment.notes())
    print_findings(note for note in deployment.notes() if note.severity != "info")
    return deployment


def tell_model_dir(deployment: Deployment) -> None:
    """Say that the weights' directory was taken from this user, where the file names none."""
    from ascend_v4.core.finding import Finding

    plan = deployment.nodes[0].plan
    if deployment.topology.model_dir is None and plan.profile != "cpu":
        text = (
            f"the topology names no model_dir, so the files say {plan.model_path}, as on this host"
        )
        fix = "model_dir in the topology: the directory of the weights on every node"
        print_findings([Finding("model-dir-assumed", "warn", text, fix)])


def one_source(request: LaunchRequest, name: str | None) -> None:
    """Raise AscendV4Error (usage) where flags stand beside a topology.

    Variables of the user's environment are no such flags: the topology wins over them.
    """
    flags = [key for key, origin in request.origins.items() if origin == "flag"]
    given = [f"--{key.replace('_', '-')}" for key in flags]
    given += ["--name"] * (name is not None) + ["-- EXTRA"] * bool(request.extra)
    if given:
        raise AscendV4Error(
            ExitCode.USAGE,
            "two-sources",
            f"-f and launch options together: {', '.join(given)}",
            "state them in the topology",
        )


def print_files(files: dict[str, str]) -> None:
    """Print one file as it is, several under a line with their names each."""
    if len(files) == 1:
        print_result(next(iter(files.values())))
        return
    for name, text in files.items():
        print_result(f"# file: {name}\n{text}")
