"""A plan as a ``docker run`` command: devices, mounts and shared memory of the chip.

The lists are those of the official installation page and tutorials:
https://docs.vllm.ai/projects/ascend/en/latest/installation.html and
https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md
(Ascend), https://docs.vllm.ai/en/latest/deployment/docker.html (GPU).
"""

from __future__ import annotations

import re
import shlex

from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.host.system import Host

__all__ = ["container_of", "docker_argv", "docker_line", "remove_command"]

MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
#: A5 has another memory driver (the 950 lines of the tutorial).
MANAGERS_A5 = ("/dev/davinci_manager", "/dev/hisi_hdc", "/dev/ummu", "/dev/uburma")
MOUNTS_A5 = ("/etc/hccl_rootinfo.json", "/etc/hixlep")
ASCEND_MOUNTS = (
    "/usr/local/dcmi",
    "/usr/local/Ascend/driver/tools/hccn_tool",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
    "/etc/hccn.conf",
)
#: The tutorials' own figure for one node.
SHM = "512g"


def container_of(run_id: str, member: str) -> str:
    """Return the name of a member's container, of the letters that docker allows."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"ascend-v4-{run_id}-{member}")


def docker_argv(
    plan: LaunchPlan, process: Process, *, name: str = "", host: Host | None = None
) -> list[str]:
    """Return the whole ``docker run`` of one process.

    ``host`` leaves out what the real host has not; without it every path stands. Secrets
    are named and never valued: docker takes them from its own environment.
    """
    argv = ["docker", "run", "--rm", "--init", "--network", "host"]
    argv += ["--name", name] if name else []
    argv += device_options(plan, process, host)
    argv += ["--volume", f"{plan.model_path}:{plan.model_path}:ro"]
    for variable, value in process.env.items():
        argv += ["--env", f"{variable}={value}"]
    for variable in process.secret_env:
        argv += ["--env", variable]
    # What the plan unsets may be set in the image; docker can only set it empty, so the
    # program is started through env.
    inner = list(process.argv)
    if process.unset:
        inner = ["env", *(word for v in process.unset for word in ("-u", v)), *inner]
    return [*argv, "--entrypoint", inner[0], plan.image, *inner[1:]]


def device_options(plan: LaunchPlan, process: Process, host: Host | None) -> list[str]:
    """Return the device and mount options of the plan's profile."""
    if plan.profile == "cuda":
        chosen = ",".join(str(device) for device in process.devices)
        return ["--gpus", f'"device={chosen}"', "--ipc", "host"] if chosen else ["--gpus", "all"]
    if plan.profile != "ascend":
        return []
    a5 = plan.chip.startswith("a5")
    nodes = [f"/dev/davinci{device}" for device in process.devices]
    # The tutorials run every DeepSeek-V4 container privileged; without it, shared memory
    # registration is refused (docs/source/faqs.md of v0.30.0rc2, question 20).
    options = ["--shm-size", SHM, "--privileged=true"]
    for node in (*nodes, *(MANAGERS_A5 if a5 else MANAGERS)):
        options += ["--device", node]
    for mount in (*ASCEND_MOUNTS, *(MOUNTS_A5 if a5 else ())):
        if host is None or host.exists(mount):
            options += ["--volume", f"{mount}:{mount}:ro"]
    return options


def docker_line(plan: LaunchPlan, process: Process) -> str:
    """Return the command as one shell line; secrets are read from their files by the shell."""
    words = [shlex.quote(word) for word in docker_argv(plan, process)]
    secrets = [f'{name}="$(cat {shlex.quote(path)})"' for name, path in process.secret_env.items()]
    return " ".join([*secrets, *words])


def remove_command(docker: str, name: str) -> tuple[str, ...]:
    """Return what removes a container and fails while it is still there.

    Killing docker's client leaves the container to the daemon.
    """
    tool, box = shlex.quote(docker), shlex.quote(name)
    step = (
        f"{tool} rm --force {box} >/dev/null 2>&1; {tool} inspect {box} >/dev/null 2>&1 || exit 0"
    )
    return ("/bin/sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 10; do {step}; sleep 0.3; done; exit 1")
