"""A topology as one systemd unit for each node: our own supervisor under systemd's.

Units are checked with ``systemd-analyze verify`` in the tests. Directives:
https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html and
https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html.
"""

from __future__ import annotations

import re

from ascend_v4.core.finding import Finding
from ascend_v4.run.restart import HOPELESS
from ascend_v4.topology.deployment import Deployment, NodePlan

from .bash import grace_of
from .common import header
from .docker import needs_of
from .targets import RenderOptions
from .yamltext import document

__all__ = ["notes", "render", "topology_text"]

#: PATH and CANN's variables are the host's.
YOURS = ("*.env",)
#: Where the files are installed on a node.
HOME = "/etc/ascend-v4"
#: Beside the chip's own files: what CUDA opens.
NVIDIA_FILES = ("char-nvidia", "char-nvidia-uvm", "char-nvidia-frontend", "char-nvidia-caps")


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what to do beside installing the files."""
    return [
        Finding(
            "systemd-engine",
            "info",
            "the unit starts `ascend-v4` from the PATH of its environment file, where CANN's"
            " variables of an installation without container stand too",
            f"edit {HOME}/{deployment.topology.name}.env",
            "https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html",
        )
    ]


def topology_text(deployment: Deployment, *more: str) -> str:
    """Return the topology file that was rendered, defaults left out."""
    loaded = deployment.topology.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude_none=True
    )
    # Stated, as the service's home, and so its default place for weights, is another.
    stated = {"model_dir": deployment.nodes[0].plan.model_path}
    return document({"schema": 1, **stated, **loaded}, header(deployment, "systemd", *more))


def device_lines(planned: NodePlan) -> list[str]:
    """Return which device files the unit may open; all others are refused."""
    plan = planned.plan
    if plan.profile == "cpu":
        return ["DevicePolicy=closed"]
    files = dict.fromkeys(
        file for process in plan.processes for file in needs_of(plan, process).devices
    )
    if plan.profile == "cuda":
        files = dict.fromkeys(NVIDIA_FILES)
    fabric = ["# RDMA between nodes", "DeviceAllow=char-infiniband_verbs rw"]
    return [
        "DevicePolicy=closed",
        *(f"DeviceAllow={file} rw" for file in files),
        *fabric,
    ]


def unit_word(text: str) -> str:
    """Return a word as a unit file has it: quoted where it must be, no specifier in it."""
    doubled = text.replace("%", "%%")
    if not re.search(r"[\s\"'\\;]", doubled):
        return doubled
    return '"' + re.sub(r'(["\\])', r"\\\1", doubled) + '"'


def unit_lines(deployment: Deployment, planned: NodePlan) -> list[str]:
    """Return the [Unit] section: give up after a few failures in an hour."""
    name = deployment.topology.name
    docker = " docker.service" if deployment.topology.runtime != "native" else ""
    return [
        "[Unit]",
        f"Description=ascend-v4 {name} on {planned.node.name}"
        f" ({planned.plan.checkpoint}, {planned.plan.engine} {planned.plan.engine_version})",
        "Documentation=https://github.com/vllm-project/vllm-ascend",
        "Wants=network-online.target",
        f"After=network-online.target{docker}",
        f"RequiresMountsFor={unit_word(planned.plan.model_path)}",
        "StartLimitIntervalSec=3h",
        "StartLimitBurst=3",
        "",
    ]


def service_lines(deployment: Deployment, planned: NodePlan, options: RenderOptions) -> list[str]:
    """Return how the service starts, is watched, stops and restarts."""
    name, node = deployment.topology.name, planned.node.name
    processes = planned.plan.processes
    deadline = max(process.deadline_s for process in processes)
    codes = " ".join(str(int(code)) for code in sorted(HOPELESS))
    serve = f"ascend-v4 serve --topology {HOME}/{name}.yaml --node {node}"
    return [
        "[Service]",
        "# serve tells systemd READY=1 once every process of this node serves.",
        "Type=notify",
        "NotifyAccess=main",
        f"EnvironmentFile=-{HOME}/{name}.env",
        f"ExecStart=/usr/bin/env {serve}",
        f"User={options.service_user}",
        "# The deadline of the plan, and a margin so that serve itself says why it gave up.",
        f"TimeoutStartSec={deadline + 120}",
        "# serve stops feeding the watchdog when a process hangs.",
        "WatchdogSec=120",
        "# TERM goes to serve alone, which drains; with control-group it would reach the engine's",
        "# workers too, in the middle of the drain. What is left of the cgroup gets KILL in both.",
        "KillMode=mixed",
        "# Above the longest drain.",
        f"TimeoutStopSec={grace_of(processes) + 30}",
        "Restart=on-failure",
        "RestartSec=30",
        "# A new start can't cure these: usage, refusal, weights, memory, host, wrong answers, …",
        f"RestartPreventExitStatus={codes}",
        "",
    ]


def hardening_lines(planned: NodePlan) -> list[str]:
    """Return what the service may touch: its devices and its state; the rest is read-only."""
    return [
        "# Limits that the engine needs lifted.",
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=1048576",
        "LimitCORE=0",
        "TasksMax=infinity",
        "OOMPolicy=stop",
        "",
        *device_lines(planned),
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "StateDirectory=ascend-v4",
        "CacheDirectory=ascend-v4",
        "LogsDirectory=ascend-v4",
        "# Claims on devices and ports are shared by all users of the host.",
        "ReadWritePaths=-/run/lock -/var/lock",
        "# The engine's caches and kernels are written below HOME.",
        "Environment=HOME=/var/lib/ascend-v4 XDG_STATE_HOME=/var/lib/ascend-v4/state"
        " XDG_CACHE_HOME=/var/cache/ascend-v4",
        "PrivateTmp=yes",
        "ProtectHome=read-only",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "RestrictSUIDSGID=yes",
        "RestrictRealtime=yes",
        "RestrictNamespaces=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service @resources",
        "SystemCallErrorNumber=EPERM",
        "CapabilityBoundingSet=CAP_IPC_LOCK CAP_SYS_NICE CAP_DAC_OVERRIDE CAP_KILL",
        "AmbientCapabilities=CAP_IPC_LOCK CAP_SYS_NICE",
        "# Not set: MemoryDenyWriteExecute (compilers write code at run time), PrivateNetwork,",
        "# PrivateDevices and ProtectKernelTunables (the engine binds interrupts in /proc/irq).",
        "UMask=0077",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


def node_unit(deployment: Deployment, planned: NodePlan, options: RenderOptions) -> str:
    """Return the unit of one node."""
    name, node = deployment.topology.name, planned.node.name
    top = header(
        deployment,
        "systemd",
        f"Install on node {node}: {name}.yaml and {name}.env to {HOME}, this file to"
        " /etc/systemd/system; then systemctl daemon-reload and"
        f" systemctl enable --now ascend-v4-{name}",
    )
    lines = [
        *(f"# {line}" for line in top),
        *unit_lines(deployment, planned),
        *service_lines(deployment, planned, options),
        *hardening_lines(planned),
    ]
    return "\n".join(lines) + "\n"


def environment_text(deployment: Deployment) -> str:
    """Return the environment file: where programs are, nothing that the plan states."""
    lines = [
        *(f"# {line}" for line in header(deployment, "systemd")),
        "# Where ascend-v4 and the engine are. The plan's own variables don't belong here.",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "# Where `ascend-v4 engine install` put an engine, if it did:",
        "#XDG_DATA_HOME=/root/.local/share",
    ]
    if deployment.nodes[0].plan.profile == "ascend":
        lines += [
            "# Without a container, CANN's variables too; this prints them:",
            "#   bash -c '. /usr/local/Ascend/ascend-toolkit/set_env.sh;"
            " . /usr/local/Ascend/nnal/atb/set_env.sh; env'",
        ]
    return "\n".join(lines) + "\n"


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return the topology, the environment file and a unit for each node."""
    name = deployment.topology.name
    files = {
        f"{name}.yaml": topology_text(deployment, f"Install as {HOME}/{name}.yaml on every node."),
        f"{name}.env": environment_text(deployment),
    }
    for planned in deployment.nodes:
        files[f"{planned.node.name}/ascend-v4-{name}.service"] = node_unit(
            deployment, planned, options
        )
    return files
