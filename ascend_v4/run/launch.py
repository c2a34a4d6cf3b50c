"""From a plan to a run: checks, claims, the environment, and the supervisor."""

from __future__ import annotations

import getpass
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

from .attempt import Options, Spec
from .claims import Claims, lock_directory
from .inherit import clean_environment, jemalloc
from .logs import Terminal
from .memory import reader_for
from .notify import Notifier
from .outcome import Outcome
from .prelaunch import check_ports, check_weights, find_program, resources
from .ready import ReadyProbe
from .restart import RestartPolicy
from .state import RunDir, new_run, prune
from .supervisor import Supervisor

__all__ = ["Launch", "Prepared", "prepare"]

#: vLLM drains on TERM only when told how long (https://github.com/vllm-project/vllm/pull/34730).
DRAIN_SINCE = (0, 18)


@dataclass(frozen=True)
class Launch:
    """How to run a plan, beside the plan itself; ``before`` hooks run last before the engine.

    A hook gets the plan and the argv and environment of its first process, and raises
    AscendV4Error to refuse.
    """

    options: Options
    restart: bool = False
    ready_fd: int | None = None
    ready_file: Path | None = None
    runtime: str = "native"
    before: Sequence[Callable[[LaunchPlan, Sequence[str], Mapping[str, str]], None]] = ()
    say: Callable[[str], None] = lambda _: None
    tell: Callable[[list[Finding]], None] = lambda _: None


@dataclass
class Prepared:
    """A run that holds its claims and has not started its engine yet."""

    plan: LaunchPlan
    host: Host
    launch: Launch
    run: RunDir
    claims: Claims
    specs: list[Spec]
    secrets: list[str]

    @property
    def endpoint(self) -> str:
        """Return the base URL of the OpenAI-compatible API, ``""`` if nothing serves one."""
        return next((f"{spec.probe.url}/v1" for spec in self.specs if spec.probe), "")

    @property
    def model(self) -> str:
        """Return the served model's name."""
        return next((spec.probe.model for spec in self.specs if spec.probe), "")

    def supervise(self, on_ready: Callable[[float], None], *, echo: bool = True) -> Outcome:
        """Run the engine to its end and give everything back; ``echo`` shows its log on stderr."""
        terminal = Terminal()
        launch = self.launch
        devices = [n for p in self.plan.processes for n in p.devices]
        supervisor = Supervisor(
            self.run,
            self.specs,
            launch.options,
            RestartPolicy(launch.restart),
            Notifier(launch.ready_fd, launch.ready_file, self.host.env.get("NOTIFY_SOCKET", "")),
            terminal,
            on_ready,
            facts={
                "endpoint": self.endpoint,
                "model": self.model,
                "profile": self.plan.profile,
                "engine": f"{self.plan.engine} {self.plan.engine_version}",
                "runtime": launch.runtime,
                "resources": sorted(self.claims.held),
            },
            secrets=self.secrets,
            claims=self.claims.fds,
            memory=reader_for(self.plan.profile, self.host, tuple(devices)),
            echo=echo,
        )
        try:
            return supervisor.supervise()
        finally:
            terminal.close()
            self.release()

    def release(self) -> None:
        """Give the claims and the run's lock back."""
        self.claims.release()
        self.run.unlock()

    def discard(self) -> None:
        """Leave nothing of a run that never started."""
        self.release()
        shutil.rmtree(self.run.path, ignore_errors=True)


def prepare(plan: LaunchPlan, host: Host, launch: Launch) -> Prepared:
    """Check everything that can be checked, claim devices and ports, make the run's folder.

    Raises AscendV4Error with nothing left behind.
    """
    program = find_program(plan, host) if launch.runtime == "native" else ""
    check_weights(plan, host, launch.say)
    local = [process for process in plan.processes if process.node == "localhost"]
    run = new_run(host.env)
    run.lock()
    who = {"run_id": run.run_id, "pid": os.getpid(), "user": user(), "since": time.time()}
    claims = Claims(lock_directory(host.env), who)
    prepared = Prepared(plan, host, launch, run, claims, [], [])
    try:
        claims.take(resources(plan, local, host))
        for process in local:
            check_ports(process, host)
            prepared.specs.append(spec_of(prepared, process, program))
        for hook in launch.before:
            hook(plan, prepared.specs[0].argv, prepared.specs[0].env)
        run.write("plan", plan.to_json())
        prune(host.env)
    except BaseException:
        prepared.discard()
        raise
    return prepared


def user() -> str:
    """Return the name of this user, the number where it has none (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def spec_of(prepared: Prepared, process: Process, program: str) -> Spec:
    """Return one member: its program by full path, its cleaned environment, its probe."""
    plan, host, launch = prepared.plan, prepared.host, prepared.launch
    process = with_drain(process, plan, launch.options.drain_s)
    env, dropped = clean_environment(host.env, process)
    launch.tell(dropped)
    if plan.profile == "ascend" and launch.runtime == "native" and (found := jemalloc(host, env)):
        launch.say(f"preloading {found}")
    # Telling systemd is the launcher's part.
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        env.pop(name, None)
    prepared.secrets += [env[name] for name in process.secret_env]
    argv = native_argv(process, program, host)
    cleanup: tuple[tuple[str, ...], ...] = ()
    if launch.runtime == "docker":
        argv, env, cleanup = containerised(prepared, process, env)
    served = value_of(process.argv, "--served-model-name")
    probe = (
        ReadyProbe(process.ready.url, served, env.get("VLLM_API_KEY", ""))
        if process.ready
        else None
    )
    launch.say(
        f"starting {plan.engine} {plan.engine_version}: {' '.join(argv[:2])} {plan.model_path}"
    )
    return Spec(process.name, argv, env, probe, process.starts_after, cleanup)


def native_argv(process: Process, program: str, host: Host) -> tuple[str, ...]:
    """Return the argument list with the program's full path.

    Raises AscendV4Error (host not ready) for a program that isn't there.
    """
    first = program if process.argv[0] == "vllm" else (host.which(process.argv[0]) or "")
    if process.argv[0] != "vllm" and not first:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-program",
            f"{process.name}: there is no {process.argv[0]} on PATH",
            f"install {process.argv[0]}",
        )
    return (first, *process.argv[1:])


def containerised(
    prepared: Prepared, process: Process, env: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str], tuple[tuple[str, ...], ...]]:
    """Return the docker command of a process, docker's own environment, how to remove it."""
    from ascend_v4.render.docker import container_of, docker_argv, remove_command

    host = prepared.host
    docker = host.which("docker")
    if docker is None:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-docker",
            "--runtime docker: there is no docker on PATH",
            "install docker, or run inside the image with --runtime native",
        )
    name = container_of(prepared.run.run_id, process.name)
    argv = (docker, *docker_argv(prepared.plan, process, name=name, host=host)[1:])
    # Docker passes on what its own environment holds; secrets never stand in its arguments.
    outer = {**host.env, **{secret: env[secret] for secret in process.secret_env}}
    return argv, outer, (remove_command(docker, name),)


def with_drain(process: Process, plan: LaunchPlan, drain_s: float) -> Process:
    """Return the process told to finish what is running when it is asked to stop."""
    version = tuple(int(part) for part in plan.engine_version.split(".")[:2] if part.isdigit())
    wanted = process.argv[:2] == ("vllm", "serve") and version >= DRAIN_SINCE
    if not wanted or any(a.split("=")[0] == "--shutdown-timeout" for a in process.argv):
        return process
    return replace(process, argv=(*process.argv, "--shutdown-timeout", str(int(drain_s))))


def value_of(argv: Sequence[str], flag: str) -> str:
    """Return the value of a flag, ``""`` where it isn't given."""
    return argv[argv.index(flag) + 1] if flag in argv[:-1] else ""


def launch_facts(prepared: Prepared) -> dict[str, Any]:
    """Return what a script wants to know of a run."""
    return {
        "run_id": prepared.run.run_id,
        "endpoint": prepared.endpoint,
        "model": prepared.model,
        "directory": str(prepared.run.path),
    }
