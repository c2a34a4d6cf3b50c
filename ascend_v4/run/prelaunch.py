"""What must hold before a launch: the engine, the weights, the ports, the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

from .devices import KIND, devices_of

__all__ = [
    "check_ports",
    "check_weights",
    "download_command",
    "engine_command",
    "find_program",
    "other_release",
    "resources",
    "told_release",
]


def check_weights(plan: LaunchPlan, host: Host, say: Callable[[str], None]) -> None:
    """Raise AscendV4Error unless the directory holds the whole checkpoint of the plan.

    Sizes and every safetensors header are read, no tensor: about a second for 74 shards.
    The rehearsal checkpoint is built when it is missing, in the directory of all weights;
    elsewhere the path is the user's, and a wrong one is not made true.
    """
    from ascend_v4.paths import models_dir
    from ascend_v4.weights.kind import require_directory
    from ascend_v4.weights.verify import quick

    usual = Path(plan.model_path).parent == models_dir(host.env)
    if plan.checkpoint == "rehearsal" and usual and not Path(plan.model_path).exists():
        from ascend_v4.rehearsal.build import build_rehearsal

        say(f"building the rehearsal checkpoint in {plan.model_path}")
        build_rehearsal(Path(plan.model_path))
    require_directory(plan.model_path, download_command(plan))
    quick(
        plan.model_path,
        plan.checkpoint,
        env=host.env,
        next_command=download_command(plan),
        because=f", and this launch is for {plan.checkpoint}{why_wrong(plan)}",
    )


def why_wrong(plan: LaunchPlan) -> str:
    """Return why other weights can't be served on the chip, where that is known."""
    if plan.profile == "ascend" and plan.chip[:2] in ("a2", "a3"):
        return (
            f"; {plan.chip[:2].upper()} can't serve the FP8/FP4 original (vllm-ascend issue 12675)"
        )
    return ""


def download_command(plan: LaunchPlan) -> str:
    """Return the command that fetches a plan's weights to where it looks for them."""
    model = plan.model_id
    return f"ascend-v4 download --profile {plan.profile} --model {model} --dir {plan.model_path}"


def engine_command(plan: LaunchPlan) -> str:
    """Return how to get a plan's engine.

    The vllm-ascend wheels on the package index are for A2 only, see pyproject.toml.
    """
    if plan.profile == "cpu":
        return "ascend-v4 engine install --profile cpu"
    image = f"run inside the image {plan.image}" if plan.image else "run inside the engine's image"
    if plan.profile == "ascend" and not plan.chip.startswith("a2"):
        return f"{image}, or add --runtime docker"
    return f"{image}, or pip install 'ascend-v4[{plan.profile}]'"


def find_program(plan: LaunchPlan, host: Host) -> str:
    """Return the full path of the engine; raises AscendV4Error (host not ready) without one."""
    from ascend_v4.engine.locate import find_engine
    from ascend_v4.paths import engine_dir

    program = find_engine(host, plan.profile, engine_dir(host.env, plan.profile))
    if program is None:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-engine",
            f"the engine {plan.engine} is not installed: no `vllm` on PATH and none of ours",
            engine_command(plan),
        )
    return str(program)


def other_release(plan: LaunchPlan, installed: str | None) -> str:
    """Return ``RELEASE, this launch is for RELEASE`` where another one is installed, else "".

    A local suffix (``+cpu``) makes no other release, ``.post1`` does. What has no number,
    such as a preview image's name, can't be compared.
    """
    has, wanted = (text.partition("+")[0] for text in (installed or "", plan.engine_version))
    if has == wanted or not (has[:1].isdigit() and wanted[:1].isdigit()):
        return ""
    return f"{plan.engine} {installed}, this launch is for {plan.engine_version}"


def told_release(plan: LaunchPlan, program: str) -> list[Finding]:
    """Return a risk where the engine ``program`` is of another release than the plan is for."""
    from ascend_v4.engine.locate import installed_version

    text = other_release(plan, installed_version(Path(program), plan.engine))
    fix = f"{engine_command(plan)}; or name the installed one with --engine-version"
    found = Finding("other-release", "risk", f"installed is {text}", fix)
    return [found] if text else []


def check_ports(process: Process, host: Host) -> None:
    """Raise AscendV4Error (busy), naming the holder, if a port of the process is taken."""
    from ascend_v4.host.ports import holder_of_port, port_free

    argv = process.argv
    address = argv[argv.index("--host") + 1] if "--host" in argv else "127.0.0.1"
    for nth, wanted in enumerate(process.ports):
        if port_free(address, wanted.port):
            continue
        holder = holder_of_port(host, wanted.port)
        who = f"{holder.name} (pid {holder.pid})" if holder and holder.pid else "another process"
        raise AscendV4Error(
            ExitCode.BUSY,
            "port-in-use",
            f"port {wanted.port} ({wanted.use}) is held by {who}",
            f"stop it, or choose another: {other_port(process, nth)}",
        )


def other_port(process: Process, nth: int) -> str:
    """Return what names another port than a process's ``nth``."""
    if process.role == "router":
        return f"router.{'metrics_port' if nth else 'port'} in the topology"
    return f"--port {process.ports[nth].port + 1}"


def resources(plan: LaunchPlan, processes: Iterable[Process], host: Host) -> list[str]:
    """Return the names of the ports and devices that the processes take: ``port-8000``, ``npu-3``.

    Raises AscendV4Error (host not ready) where fewer devices are visible than wanted.
    """
    names = []
    for process in processes:
        names += [f"port-{port.port}" for port in process.ports]
        names += [f"{KIND[plan.profile]}-{device}" for device in devices_of(plan, process, host)]
    # GPUs may be named by UUID; nothing of a name may leave the directory.
    return [name.replace("/", "_") for name in names]
