"""A topology as one Compose file for each node.

The servers of a node share one container, as in ``docker_scripts``, and for its reasons.
Keys are those of the published schema: https://github.com/compose-spec/compose-spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.topology.deployment import Deployment, NodePlan

from .bash import entry_of, grace_of
from .common import (
    ROUTER_PACKAGE,
    argv_lines,
    flag_reason,
    header,
    quote,
    quoted,
    reason,
)
from .docker import (
    Needs,
    container_argv,
    container_of,
    counted,
    fabric_reason,
    merged_needs,
    needs_of,
    refuse_docker,
    unprivileged,
)
from .docker_scripts import INNER, on_host
from .fabric import needs_fabric
from .k8s_common import FOLDER, PROBE, model_of
from .script import script
from .targets import RenderOptions
from .yamltext import Noted, document

__all__ = ["notes", "render"]

ALONE = (
    "Compose can't tell exit codes apart, and a server that refuses its options ends like one"
    " that crashed: so three tries, then it stays down. systemd can tell them apart."
)
PEERS = (
    "A rank that starts anew alone finds its peers in the middle of theirs: all of the replica"
    " must start together, which `ascend-v4 cluster` and the k8s-lws target see to."
)
ROUTER_IMAGE = "FROM python:3.12-slim\nRUN pip install --no-cache-dir {package}\n"
HEALTH = (
    "Generates a token on each server of the container. Docker only shows the state: it does"
    " not restart what is unhealthy."
)


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what to say about containers that are not privileged."""
    return [] if options.privileged else unprivileged(deployment)


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return ``compose.<node>.yaml`` for each node, and the script of a shared container."""
    shared = Shared(
        tuple(header(deployment, "compose")),
        has_peers(deployment),
        every_secret(deployment),
        needs_fabric(deployment),
        tuple(f"{n.severity}: {n.message} ({n.source})" for n in notes(deployment, options)),
    )
    files = {"probe.py": f"# {shared.top[0]}\n{PROBE}"}
    for planned in deployment.nodes:
        files.update(node_files(deployment, planned, options, shared))
    return files


@dataclass(frozen=True)
class Shared:
    """What is the same for every node, and takes long to find for a thousand of them."""

    top: tuple[str, ...]
    peers: bool
    secrets: dict[str, tuple[str, str]]
    fabric: bool
    notes: tuple[str, ...]


def every_secret(deployment: Deployment) -> dict[str, tuple[str, str]]:
    """Return the secrets of the whole deployment."""
    return secret_files([process for _, process in deployment.processes()])


def node_files(
    deployment: Deployment, planned: NodePlan, options: RenderOptions, shared: Shared
) -> dict[str, str]:
    """Return the files of one node."""
    plan, node = planned.plan, planned.node.name
    inside = [process for process in plan.processes if not on_host(process)]
    files, services = {}, {}
    if inside:
        refuse_docker(plan)
        name = inside[0].name if len(inside) == 1 else "servers"
        services[name] = engine_service(deployment, plan, inside, options, shared)
    if len(inside) > 1:
        top = [*shared.top, f"Runs inside the container of compose.{node}.yaml."]
        entries = [entry_of(deployment, process) for process in counted(inside)]
        files[f"{node}.inner.sh"] = script(top, entries, grace_of(inside))
    for process in plan.processes:
        if on_host(process):
            services[process.name] = router_service(deployment, process)
    whole = {"name": project(deployment, node), "services": services}
    if any("secrets" in service for service in services.values()):
        whole["secrets"] = {
            key: {"file": literal(path)} for key, (_, path) in sorted(shared.secrets.items())
        }
    file = f"compose.{node}.yaml"
    top = [
        *shared.top,
        f"Run on node {node} ({planned.node.address}), every node's at once:"
        f" docker compose -f {file} up -d",
        *shared.notes,
    ]
    return {**files, file: document(whole, top)}


def project(deployment: Deployment, node: str) -> str:
    """Return the project's name, which the containers of a node belong to."""
    return f"{deployment.topology.name}-{node}"


def literal(text: str) -> str:
    """Return a text that Compose puts nothing into: its dollar signs doubled."""
    return text.replace("$", "$$")


def secret_files(processes: list[Process]) -> dict[str, tuple[str, str]]:
    """Return each secret by the name it has in Compose: its variable and its file."""
    found = {}
    for process in processes:
        for variable, path in process.secret_env.items():
            found[variable.lower().replace("_", "-")] = (variable, path)
    return found


def mounted(processes: list[Process]) -> list[dict[str, str]]:
    """Return where a container finds its secrets: the same path as on the host, once each.

    Two variables may hold one key, those of the servers and of the image's proxy.
    """
    files = {path: key for key, (_, path) in sorted(secret_files(processes).items(), reverse=True)}
    return [
        {"source": key, "target": literal(path)}
        for path, key in sorted(files.items(), key=lambda item: item[1])
    ]


def engine_service(
    deployment: Deployment,
    plan: LaunchPlan,
    inside: list[Process],
    options: RenderOptions,
    shared: Shared,
) -> dict[str, Any]:
    """Return the service of a node's engine container."""
    needs = merged_needs(
        [needs_of(plan, p, privileged=options.privileged, fabric=shared.fabric) for p in inside]
    )
    service: dict[str, Any] = {
        "image": literal(plan.image),
        "container_name": container_of(deployment.topology.name, inside[0].node),
        "init": Noted(True, "ends what the engine leaves behind"),
        "network_mode": Noted("host", "ranks and KV transfers use ports of the node itself"),
        "restart": Noted("no", PEERS) if shared.peers else Noted("on-failure:3", ALONE),
        "stop_signal": "SIGTERM",
        "stop_grace_period": Noted(
            f"{grace_of(inside)}s", f"above the {max(p.drain_s for p in inside)} s of draining"
        ),
        **grants(needs, fabric_reason(plan)),
    }
    if options.privileged:
        service["privileged"] = Noted(True, "asked for with --privileged")
    secrets = secret_files(inside)
    if len(inside) == 1:
        service["environment"] = environment(deployment, *counted(inside))
    service["volumes"] = volumes(plan, needs, inside)
    if secrets:
        service["secrets"] = mounted(inside)
    first, *words = [literal(word) for word in command(plan, needs, inside)]
    service["entrypoint"] = [first]
    service["command"] = explained(deployment, inside, words)
    ready = [process for process in inside if process.ready and process.role != "router"]
    if ready:
        ports = [process.ports[0].port for process in ready]
        service["volumes"].append(bind("./probe.py", f"{FOLDER}/probe.py"))
        service["healthcheck"] = Noted(health(inside, address_of(ready[0]), ports, inside), HEALTH)
    return service


def address_of(process: Process) -> str:
    """Return the address that a process answers on."""
    url = process.ready.url if process.ready else ""
    return url.removeprefix("http://").rpartition(":")[0]


def key_file(processes: list[Process]) -> str:
    """Return the file of the first secret, which is the API key, or ``""``."""
    return next((path for _, path in secret_files(processes).values()), "")


def explained(deployment: Deployment, inside: list[Process], words: list[str]) -> list[Any]:
    """Return a command's words, the reason of a flag above it where one server has them all."""
    if len(inside) > 1:
        return words
    process = inside[0]
    reasons = {
        group[0]: flag_reason(deployment, process, group) for group in argv_lines(process)[1:]
    }
    return [Noted(word, reasons[word]) if reasons.get(word) else word for word in words]


def has_peers(deployment: Deployment) -> bool:
    """Whether a server of the deployment needs another one beside it to serve."""
    groups = deployment.topology.groups
    servers = [p for _, p in deployment.processes() if p.role != "router"]
    return len(servers) > sum(group.replicas for group in groups)


def grants(needs: Needs, why: str) -> dict[str, Any]:
    """Return devices, shared memory and rights of the container; ``why`` it is on the fabric."""
    found: dict[str, Any] = {}
    if needs.gpus:
        found["ipc"] = Noted("host", "ranks on one node exchange through shared memory")
        gpus = {
            "driver": "nvidia",
            "device_ids": [str(gpu) for gpu in needs.gpus],
            "capabilities": ["gpu"],
        }
        found["deploy"] = {"resources": {"reservations": {"devices": [gpus]}}}
    elif needs.shm_gib:
        found["shm_size"] = f"{needs.shm_gib}g"
    if needs.capabilities:
        found["cap_add"] = list(needs.capabilities)
    if needs.ulimits:
        found["ulimits"] = dict(limit_of(text) for text in needs.ulimits)
    if needs.devices or needs.fabric:
        found["devices"] = [
            *(f"{file}:{file}" for file in needs.devices),
            *(Noted(f"{file}:{file}", why) for file in needs.fabric),
        ]
    return found


def limit_of(text: str) -> tuple[str, dict[str, int]]:
    """Return docker's ``name=soft:hard`` as Compose writes it."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    return name, {"soft": int(soft), "hard": int(hard or soft)}


def environment(deployment: Deployment, process: Process) -> dict[str, Any]:
    """Return the variables of a single server, each with its reason."""
    found: dict[str, Any] = {}
    for name, value in process.env.items():
        why = reason(deployment, process, f"env.{name}")
        found[name] = Noted(literal(value), why) if why else literal(value)
    return found


def volumes(plan: LaunchPlan, needs: Needs, inside: list[Process]) -> list[dict[str, Any]]:
    """Return the mounts; a path that is missing stops the start instead of being made."""
    paths = [(path, path) for path in (*needs.mounts, plan.model_path)]
    if len(inside) > 1:
        paths.append((f"./{inside[0].node}.inner.sh", INNER))
    return [bind(source, target) for source, target in paths]


def bind(source: str, target: str) -> dict[str, Any]:
    """Return a read-only mount of a path that must be there."""
    return {
        "type": "bind",
        "source": literal(source),
        "target": literal(target),
        "read_only": True,
        "bind": {"create_host_path": False},
    }


def command(plan: LaunchPlan, needs: Needs, inside: list[Process]) -> list[str]:
    """Return what runs in the container; a secret is read from its file at the start."""
    if len(inside) > 1:
        whole = ["/bin/bash", INNER]
        return ["/bin/bash", "-c", needs.entry, "ascend-v4", *whole] if needs.entry else whole
    inner = container_argv(plan, inside[0])
    secrets = secret_files(inside)
    if not secrets:
        return inner
    reads = [
        f'{name}="$(cat {quote(path)})" || exit 6; export {name}' for name, path in secrets.values()
    ]
    return ["/bin/sh", "-c", "; ".join([*reads, 'exec "$@"']), "ascend-v4", *inner]


def health(
    waited: list[Process], address: str, ports: list[int], servers: list[Process]
) -> dict[str, Any]:
    """Return the health check; a cold start may take as long as the deadline of ``waited``."""
    words = ["generate", model_of(servers), address, *map(str, ports)]
    run = f"exec python3 {FOLDER}/probe.py {' '.join(quoted(words))}"
    key = key_file(servers)
    text = f'VLLM_API_KEY="$(cat {quote(key)})"; export VLLM_API_KEY; {run}' if key else run
    return {
        "test": ["CMD-SHELL", literal(text)],
        "interval": "60s",
        "timeout": "65s",
        "retries": 3,
        "start_period": f"{max(process.deadline_s for process in waited)}s",
    }


def router_service(deployment: Deployment, process: Process) -> dict[str, Any]:
    """Return the service of vllm-router, which has no image of its own on the index."""
    image = ROUTER_IMAGE.format(package=ROUTER_PACKAGE)
    service: dict[str, Any] = {
        "build": Noted({"dockerfile_inline": image}, "vllm-router is a package, not an image"),
        "container_name": container_of(deployment.topology.name, process.name),
        "init": True,
        "network_mode": "host",
        "restart": Noted("on-failure:3", "it keeps nothing, so a new start costs nothing"),
        "stop_grace_period": f"{grace_of([process])}s",
        "entrypoint": [literal(process.argv[0])],
        "command": [literal(word) for word in process.argv[1:]],
    }
    if process.ready:
        servers = [p for _, p in deployment.processes() if p.role not in ("router", "headless")]
        if key_file(servers):
            service["secrets"] = mounted(servers)
        service["volumes"] = [bind("./probe.py", f"{FOLDER}/probe.py")]
        check = health([process], address_of(process), [process.ports[0].port], servers)
        service["healthcheck"] = Noted(check, "Generates through the router.")
    return service
