"""A plan as a ``docker run`` command: devices, mounts and shared memory of the chip.

What a container needs is the catalog's ``containers`` table, after the official
installation page and tutorials: https://docs.vllm.ai/projects/ascend/en/latest/installation.html
(Ascend) and https://docs.vllm.ai/en/latest/deployment/docker.html (GPU).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

if TYPE_CHECKING:
    from ascend_v4.topology.deployment import Deployment

__all__ = [
    "Needs",
    "container_argv",
    "container_env",
    "container_of",
    "counted",
    "device_options",
    "docker_argv",
    "docker_line",
    "fabric_reason",
    "fabric_row",
    "merged_needs",
    "named_files",
    "needs_of",
    "refuse_docker",
    "remove_command",
    "separate_containers",
    "unprivileged",
]


#: Variables that list a process's devices.
VISIBLE = ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
#: Arguments of a server that may have peers on other nodes.
REACHES_OTHERS = {"--kv-transfer-config", "--data-parallel-address"}
#: Of docker, a name, and the name as a pattern. Podman's names begin without a slash.
REMOVE = """for i in 1 2 3 4 5 6; do
"$1" rm --force "$2" >/dev/null 2>&1
left=$("$1" ps -a -q --no-trunc --filter "name=^/?$3$" 2>/dev/null) && [ -z "$left" ] && exit 0
sleep 0.3
done
exit 1"""


@dataclass(frozen=True)
class Needs:
    """What a process needs of its host inside a container; paths are the same on both sides.

    ``gpus`` holds GPU numbers or UUIDs where the runtime hands GPUs out itself. ``fabric``
    holds device files of the network between nodes. ``entry`` is a shell text that runs its
    arguments in the image's own environment, ``""`` for none.
    """

    devices: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    gpus: tuple[int | str, ...] = ()
    fabric: tuple[str, ...] = ()
    shm_gib: int = 0
    capabilities: tuple[str, ...] = ()
    ulimits: tuple[str, ...] = ()
    entry: str = ""


def container_row(plan: LaunchPlan) -> Row | None:
    """Return the catalog row of the plan's chip or profile, or None where nothing is needed."""
    known = catalog()
    names = (known.chip(plan.chip)["id"], plan.profile)
    rows = known.table("containers")
    return next((row for row in rows if not set(names).isdisjoint(row["chips"])), None)


def fabric_row(plan: LaunchPlan) -> Row | None:
    """Return what RDMA to other nodes takes on the plan's chip; None where that is nothing."""
    found: Row | None = (container_row(plan) or {}).get("fabric")
    return found


def fabric_reason(plan: LaunchPlan) -> str:
    """Return why a container has devices of the network between nodes, ``""`` where none."""
    row = fabric_row(plan)
    return f"{row['reason']} ({row['source']})" if row else ""


def needs_of(
    plan: LaunchPlan,
    process: Process,
    *,
    privileged: bool = False,
    fabric: bool = False,
    devices: Sequence[int | str] | None = None,
) -> Needs:
    """Return what the process needs; ``privileged`` leaves out what that flag includes.

    ``fabric`` adds what it takes to reach other nodes, ``devices`` are the host's where they
    are not those of the plan. A router needs nothing but its image.
    """
    held = tuple(process.devices if devices is None else devices)
    row = container_row(plan)
    if row is None or process.role == "router":
        return Needs()
    files = [file.format(device=device) for file in row.get("device_files", []) for device in held]
    network: Mapping[str, Any] = {} if privileged or not fabric else fabric_row(plan) or {}
    grants = [] if privileged else [*row.get("grants", []), *network.get("grants", [])]
    return Needs(
        devices=(*files, *row.get("manager_files", [])),
        mounts=(*row.get("mounts", []), *named_files(process)),
        gpus=held if row.get("gpus") else (),
        fabric=tuple(network.get("device_files", [])),
        shm_gib=row["shm_gib"],
        capabilities=tuple(g["value"] for g in grants if g["kind"] == "capability"),
        ulimits=tuple(g["value"] for g in grants if g["kind"] == "ulimit"),
        entry=row.get("entry") or "",
    )


def named_files(process: Process) -> list[str]:
    """Return the files of the host that a process's variables name, such as a mooncake.json."""
    rows = catalog().table("variables")
    names = {row["name"] for row in rows if row.get("on_host")}
    return [v for name, v in process.env.items() if name in names and v.startswith("/")]


def merged_needs(several: Sequence[Needs]) -> Needs:
    """Return the needs of processes that share a container, each once."""

    def each(name: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(item for needs in several for item in getattr(needs, name)))

    lists = ("devices", "mounts", "gpus", "fabric", "capabilities", "ulimits")
    return Needs(
        **{name: each(name) for name in lists},
        shm_gib=max(needs.shm_gib for needs in several),
        entry=next((needs.entry for needs in several if needs.entry), ""),
    )


def unprivileged(deployment: Deployment) -> list[Finding]:
    """Return what to say about containers of a deployment that are not privileged, each once."""
    rows = [container_row(planned.plan) for planned in deployment.nodes]
    found = [
        Finding(
            "not-privileged",
            "warn",
            row["unprivileged_risk"],
            "--privileged, where you trust the image with the whole host",
            row["privileged_source"],
            confidence=row["confidence"],
        )
        for row in rows
        if row is not None and row.get("unprivileged_risk")
    ]
    return list(dict.fromkeys(found))


def separate_containers(plan: LaunchPlan) -> list[Finding]:
    """Return a risk where several servers of a node, each in a container, have devices.

    Rendered launches, as the published ones, put them into one.
    """
    row = container_row(plan)
    servers = [process.name for process in plan.processes if process.devices]
    if row is None or len(servers) < 2:
        return []
    text = (
        f"{', '.join(servers)} share a node and get a container each: ranks in separate"
        " containers may not reach each other's memory"
    )
    fix = "ascend-v4 render docker: one container a node; or --runtime native inside the image"
    return [Finding("separate-containers", "risk", text, fix, row["source"], confidence="inferred")]


def container_of(run_id: str, member: str) -> str:
    """Return the name of a member's container, of the letters that docker allows."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"ascend-v4-{run_id}-{member}")


def container_env(
    process: Process, devices: Sequence[int | str], own: Sequence[int | str] | None = None
) -> dict[str, str]:
    """Return a process's variables inside a container that holds ``devices``.

    Drivers number a container's devices from 0 on, so the visible ones are counted anew.
    ``own`` are the process's where they are not those of the plan.
    """
    order = sorted(devices, key=lambda device: (isinstance(device, str), f"{device:>4}"))
    mine = process.devices if own is None else own
    env = dict(process.env)
    for name in VISIBLE:
        if name in env and mine and set(mine) <= set(order):
            env[name] = ",".join(str(order.index(device)) for device in mine)
    return env


def counted(inside: Sequence[Process]) -> list[Process]:
    """Return the processes of one container, which holds the devices of them all."""
    held = [device for process in inside for device in process.devices]
    return [replace(process, env=container_env(process, held)) for process in inside]


def container_argv(plan: LaunchPlan, process: Process) -> list[str]:
    """Return what runs inside the container, the program first.

    What the plan unsets may be set in the image, and docker can only set it empty, so the
    program is then started through env.
    """
    inner = list(process.argv)
    if process.unset:
        inner = ["env", *(word for v in process.unset for word in ("-u", v)), *inner]
    entry = needs_of(plan, process).entry
    return ["/bin/bash", "-c", entry, "ascend-v4", *inner] if entry else inner


def refuse_docker(plan: LaunchPlan) -> None:
    """Raise AscendV4Error (refused) for a plan that no container can run."""
    if not plan.image:
        raise AscendV4Error(
            ExitCode.REFUSED,
            "no-image",
            f"there is no official image of {plan.engine} {plan.engine_version}"
            f" for the profile {plan.profile}, so docker can't run it",
            "--image NAME:TAG, or without docker: --runtime native, ascend-v4 render bash",
        )
    if not plan.model_path.startswith("/"):
        raise AscendV4Error(
            ExitCode.REFUSED,
            "relative-model-dir",
            f"docker mounts absolute paths only, and the weights are in {plan.model_path}",
            "an absolute path as model_dir",
        )


def docker_argv(
    plan: LaunchPlan,
    process: Process,
    *,
    name: str = "",
    host: Host | None = None,
    privileged: bool = False,
    devices: Sequence[int | str] | None = None,
    linked: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return the whole ``docker run`` of one process.

    ``host`` leaves out what the real host has not; without it every path stands. ``devices``
    are the host's where they are not those of the plan. ``linked`` are places of the host
    that links among the weights lead to, and where in the container. Secrets are named and
    never valued: docker takes them from its own environment.
    """
    argv = ["docker", "run", "--rm", "--init", "--network", "host"]
    argv += ["--name", name] if name else []
    peers = REACHES_OTHERS & set(process.argv)
    held = process.devices if devices is None else devices
    needs = needs_of(plan, process, privileged=privileged, fabric=bool(peers), devices=held)
    argv += device_options(needs, host)
    argv += ["--privileged"] if privileged else []
    for source, target in ((plan.model_path, plan.model_path), *linked):
        argv += ["--volume", f"{source}:{target}:ro"]
    for variable, value in container_env(process, held, held).items():
        argv += ["--env", f"{variable}={value}"]
    for variable in process.secret_env:
        argv += ["--env", variable]
    inner = container_argv(plan, process)
    return [*argv, "--entrypoint", inner[0], plan.image, *inner[1:]]


def device_options(needs: Needs, host: Host | None) -> list[str]:
    """Return docker's options for what a container needs."""
    options = []
    if needs.gpus:
        chosen = ",".join(str(device) for device in needs.gpus)
        options += ["--gpus", f'"device={chosen}"', "--ipc", "host"]
    elif needs.shm_gib:
        options += ["--shm-size", f"{needs.shm_gib}g"]
    for capability in needs.capabilities:
        options += ["--cap-add", capability]
    for limit in needs.ulimits:
        options += ["--ulimit", limit]
    for file in needs.devices:
        options += ["--device", file]
    for file in needs.fabric:
        if host is None or host.exists(file):
            options += ["--device", file]
    for mount in needs.mounts:
        if host is None or host.exists(mount):
            options += ["--volume", f"{mount}:{mount}:ro"]
    return options


def docker_line(plan: LaunchPlan, process: Process) -> str:
    """Return the command as one shell line; secrets are read from their files by the shell."""
    words = [shlex.quote(word) for word in docker_argv(plan, process)]
    secrets = [f'{name}="$(cat {shlex.quote(path)})"' for name, path in process.secret_env.items()]
    return " ".join([*secrets, *words])


def remove_command(docker: str, name: str) -> tuple[str, ...]:
    """Return what removes a container and fails until docker says that it is gone.

    Killing docker's client leaves the container to the daemon. A daemon that can't be asked
    says nothing: the container may live on, with its devices. The word after the script is
    what the container is called where it could not be removed.
    """
    return ("/bin/sh", "-c", REMOVE, f"container {name}", docker, name, name.replace(".", "[.]"))
