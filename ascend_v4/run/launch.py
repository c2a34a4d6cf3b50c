"""From a plan to a run: checks, claims, the environment, and the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.engine.precheck import Ask
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Completed, Host
from ascend_v4.paths import engine_dir

from .claims import Claims
from .devices import devices_of
from .guarded import guarded
from .held import Held, unclaimed
from .inherit import clean_environment, jemalloc
from .links import linked_places
from .logs import Terminal
from .memory import MemoryReader, reader_for
from .notify import Notifier
from .outcome import Outcome
from .prelaunch import check_ports, check_weights, find_program, resources, told_release
from .ready import ReadyProbe
from .restart import RestartPolicy
from .signals import Signals
from .spec import Options, Spec, front_probe
from .state import RunDir, prune
from .supervisor import Supervisor
from .transfer import Transfers

__all__ = ["Launch", "Prepared", "prepare"]

ROUTER = "vllm-router"


@dataclass(frozen=True)
class Launch:
    """How to run a plan, beside the plan itself; ``before`` hooks run last before the engine.

    A hook gets a server process, the first of each shape, and what runs a command under a
    guardian; it raises AscendV4Error to refuse. ``node`` is whose processes are run,
    ``served_model`` and ``key`` what a router's clients ask for and show, ``labels`` go
    into the run's state, ``peers`` are the servers elsewhere that a process needs,
    ``decoders`` those that fetch the KV cache of others.
    """

    options: Options
    restart: bool = False
    ready_fd: int | None = None
    ready_file: Path | None = None
    runtime: str = "native"
    before: Sequence[Callable[[Spec, Ask], None]] = ()
    node: str = "localhost"
    served_model: str = ""
    key: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decoders: tuple[str, ...] = ()
    say: Callable[[str], None] = lambda _: None
    tell: Callable[[list[Finding]], None] = lambda _: None


@dataclass
class Prepared(Held):
    """A run that holds its claims and has not started its engine yet."""

    plan: LaunchPlan
    host: Host
    launch: Launch
    run: RunDir
    claims: Claims
    signals: Signals
    specs: list[Spec]
    secrets: list[str]

    @property
    def endpoint(self) -> str:
        """Return the base URL of what clients talk to, ``""`` if nothing here serves them."""
        probe = front_probe(self.specs)
        return f"{probe.url}/v1" if probe else ""

    @property
    def model(self) -> str:
        """Return the served model's name."""
        probe = front_probe(self.specs)
        return probe.model if probe else self.launch.served_model

    def facts(self) -> dict[str, Any]:
        """Return what a script wants to know of a run."""
        return {
            "run_id": self.run.run_id,
            "endpoint": self.endpoint,
            "model": self.model,
            "directory": str(self.run.path),
        }

    def ask(self, argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> Completed:
        """Run a command that must not outlive the launcher."""
        log = self.run.path / "engine-check.log"
        try:
            return guarded(
                self.run.run_id, "engine-check", argv, env, log, self.secrets, timeout_s=timeout_s
            )
        finally:
            # Who asked tells what it said.
            log.unlink(missing_ok=True)

    def memory(self) -> MemoryReader | None:
        """Return what reads the use of the host's devices that this run has."""
        local = [process for process in self.plan.processes if process.node == self.launch.node]
        devices = [n for process in local for n in devices_of(self.plan, process, self.host)]
        return reader_for(self.plan.profile, self.host, tuple(devices))

    def supervise(self, on_ready: Callable[[float], None], *, echo: bool = True) -> Outcome:
        """Run the engine to its end and give everything back; ``echo`` shows its log on stderr."""
        terminal = Terminal()
        launch = self.launch
        notifier = Notifier.of(launch.ready_fd, launch.ready_file, self.host.env)
        # Of a run that was killed; ours says nothing yet.
        notifier.forget()
        supervisor = Supervisor(
            self.run,
            self.specs,
            launch.options,
            RestartPolicy(launch.restart),
            notifier,
            terminal,
            on_ready,
            facts={
                "endpoint": self.endpoint,
                "model": self.model,
                "profile": self.plan.profile,
                "engine": f"{self.plan.engine} {self.plan.engine_version}",
                "runtime": launch.runtime,
                "resources": sorted(self.claims.held),
                **launch.labels,
            },
            secrets=self.secrets,
            claims=self.claims.fds,
            memory=self.memory(),
            echo=echo,
            signals=self.signals,
        )
        try:
            return supervisor.supervise()
        finally:
            terminal.close()
            self.release()


def prepare(plan: LaunchPlan, host: Host, launch: Launch) -> Prepared:
    """Check everything that can be checked, claim devices and ports, make the run's folder.

    Raises AscendV4Error, and SystemExit for a signal that stops, with nothing left behind.
    """
    signals = Signals()
    with signals.preparing():
        return checked(plan, host, launch, signals)


def checked(plan: LaunchPlan, host: Host, launch: Launch, signals: Signals) -> Prepared:
    """Return what :func:`prepare` does."""
    local = [process for process in plan.processes if process.node == launch.node]
    program = ""
    if any(process.role != "router" or process.argv[0] == "python" for process in local):
        program = find_program(plan, host) if launch.runtime == "native" else ""
        launch.tell(told_release(plan, program) if program else [])
    if any(process.role != "router" for process in local):
        check_weights(plan, host, launch.say)
    prepared: Prepared | None = None
    names = resources(plan, local, host)
    try:
        with signals.whole():
            run, claims = unclaimed(host.env)
            prepared = Prepared(plan, host, launch, run, claims, signals, [], [])
            prepared.begin(launch.labels, names)
        for process in local:
            check_ports(process, host)
            prepared.specs.append(spec_of(prepared, process, program))
        for spec in shapes(prepared.specs):
            for hook in launch.before:
                hook(spec, prepared.ask)
        prepared.run.write("plan", plan.to_json())
        prune(host.env)
        signals.hold()
    except BaseException:
        if prepared is not None:
            prepared.discard()
        raise
    return prepared


def shapes(specs: Sequence[Spec]) -> list[Spec]:
    """Return the first server of each shape: the same flags, whatever their values."""
    found: dict[tuple[str, ...], Spec] = {}
    for spec in specs:
        if spec.role != "router":
            flags = tuple(word.split("=")[0] for word in spec.argv if word.startswith("-"))
            found.setdefault(flags, spec)
    return list(found.values())


def spec_of(prepared: Prepared, process: Process, program: str) -> Spec:
    """Return one member: its program by full path, its cleaned environment, its probe."""
    plan, host, launch = prepared.plan, prepared.host, prepared.launch
    env, dropped = clean_environment(host.env, process)
    launch.tell(dropped)
    if plan.profile == "ascend" and launch.runtime == "native" and (found := jemalloc(host, env)):
        launch.say(f"preloading {found}")
    # Telling systemd is the launcher's part.
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        env.pop(name, None)
    prepared.secrets += [env[name] for name in process.secret_env]
    cleanup = forgetting(launch.ready_file)
    if launch.runtime == "docker" and process.argv[0] != ROUTER:
        argv, env, removal = containerised(prepared, process, env)
        cleanup = (*cleanup, *removal)
    else:
        argv = native_argv(process, program, host)
    what = process.argv[0] if process.role == "router" else f"{plan.engine} {plan.engine_version}"
    shown = argv[0] if process.role == "router" else f"{' '.join(argv[:2])} {plan.model_path}"
    launch.say(f"starting {what}: {shown}".rstrip())
    probe = probe_of(prepared, process, env)
    peers = launch.peers.get(process.name, ())
    after, role = process.starts_after, process.role
    cuts = process.cuts_requests
    return Spec(process.name, argv, env, probe, after, cleanup, role, peers, cuts_requests=cuts)


def forgetting(ready_file: Path | None) -> tuple[tuple[str, ...], ...]:
    """Return what takes the ready file away when nobody else is left to do it."""
    if ready_file is None:
        return ()
    path = str(ready_file.absolute())
    return (("/bin/sh", "-c", 'rm -f -- "$1" || :', "ascend-v4", path),)


def probe_of(prepared: Prepared, process: Process, env: Mapping[str, str]) -> ReadyProbe | None:
    """Return what asks a process for a token; None for one without an API.

    A router is asked for the model of the servers behind it, and with their key.
    """
    if process.ready is None:
        return None
    served = value_of(process.argv, "--served-model-name") or prepared.launch.served_model
    key = env.get("VLLM_API_KEY", "") or prepared.launch.key
    prepared.secrets.append(key)
    proxy = process.role == "router" and process.argv[0] != ROUTER
    probe = ReadyProbe(process.ready.url, served, key, health="" if proxy else "/health")
    if process.role == "router" and prepared.launch.decoders:
        probe.transfers = Transfers(prepared.launch.decoders, key)
    return probe


def native_argv(process: Process, program: str, host: Host) -> tuple[str, ...]:
    """Return the argument list with the program's full path.

    Raises AscendV4Error (host not ready) for a program that isn't there.
    """
    name = process.argv[0]
    first = program if name == "vllm" else find_other(name, program, host)
    if not first:
        ours = f", nor in {engine_dir(host.env, 'router')}" if name == ROUTER else ""
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-program",
            f"{process.name}: there is no {name} on PATH{ours}",
            "ascend-v4 engine install --profile router" if name == ROUTER else f"install {name}",
        )
    return (first, *process.argv[1:])


def find_other(name: str, program: str, host: Host) -> str:
    """Return the full path of a program that isn't the engine, ``""`` where it is not.

    ``python`` is the engine's own: the image's proxy needs what is installed there.
    """
    from ascend_v4.engine.precheck import interpreter_of

    if name == "python" and program and (python := interpreter_of(Path(program))):
        return str(python)
    ours = engine_dir(host.env, "router") / "bin" / name
    if name == ROUTER and ours.exists():
        return str(ours)
    return host.which(name) or ""


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
    devices = devices_of(prepared.plan, process, host)
    plan, linked = prepared.plan, linked_places(prepared.plan.model_path)
    words = docker_argv(plan, process, name=name, host=host, devices=devices, linked=linked)
    argv = (docker, *words[1:])
    # Docker passes on what its own environment holds; secrets never stand in its arguments.
    outer = {**host.env, **{secret: env[secret] for secret in process.secret_env}}
    return argv, outer, (remove_command(docker, name),)


def value_of(argv: Sequence[str], flag: str) -> str:
    """Return the value of a flag, ``""`` where it isn't given."""
    return argv[argv.index(flag) + 1] if flag in argv[:-1] else ""
