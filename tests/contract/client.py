"""Ask a release's own parser and startup checks about a plan, with no NPU in sight.

``Engine(release, chip).check(env, argv)`` returns a Verdict. A release is a
vllm-ascend version where the chip is an NPU (``a2``, ``a3``, ``a5``), else a vLLM
version, of which only the argument parser is asked: its configuration step wants
the GPU. Processes are shared by release, chip and import-time environment, and
at most ``MAX_PROCESSES`` live at a time; ``close_all`` ends them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contract.model_dir import CHECKPOINTS, model_directory
from tests.contract.overlays import cache_dir, engine_python, overlay_path

__all__ = [
    "CHIPS",
    "Chip",
    "Engine",
    "EngineStartError",
    "Job",
    "Pool",
    "Verdict",
    "check_all",
    "close_all",
]

MAX_PROCESSES = 2
CONTRACT = Path(__file__).parent
# Read while importing, and without any say in a configuration.
IRRELEVANT_READS = frozenset(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TASK_QUEUE_ENABLE"))
TELLING = re.compile(
    r"ignor|reset|deprecat|no effect|not support|unsupported|disabl|fall(s|ing)? ?back"
    r"|overrid|invalid|will be removed|adjust|truncat|forc(ed|ing)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Chip:
    """What the stand-ins answer for a chip; SoC numbers as vllm-ascend 0.30.0rc2 groups them.

    ``devices`` is logical devices a server, ``memory_gib`` memory a device.
    Source of the SoC ranges: vllm_ascend/device/hardware.py:64-76.
    """

    build: str
    device_name: str
    soc: int
    devices: int
    memory_gib: int


CHIPS = {
    "a2": Chip("A2", "Ascend910B1", 220, 8, 64),
    "a3": Chip("A3", "Ascend910_9391", 250, 16, 64),
    "a5": Chip("A5", "Ascend950DT_9582", 260, 8, 112),
}


class EngineStartError(Exception):
    """The release could not be imported here; the text is its own traceback."""


@dataclass(frozen=True)
class Verdict:
    """What a release says about one plan.

    ``stage`` is where it ended: ``parse``, ``config`` or ``worker``. ``warnings``
    are the log lines of level WARNING and above that say something asked for is
    not done; ``log`` is all of that level. ``seconds`` is the time in the fork.
    """

    accepted: bool
    stage: str
    error_type: str
    message: str
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    log: tuple[str, ...] = ()
    traceback: str = ""
    output: str = field(default="", repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the ``verify`` script prints."""
        return {
            "accepted": self.accepted,
            "stage": self.stage,
            "error_type": self.error_type,
            "message": self.message,
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


class Process:
    """One engine process: an imported release that forks for every plan."""

    def __init__(self, python: Path, env: dict[str, str], log: Path) -> None:
        ours, theirs = socket.socketpair()
        start = time.monotonic()
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                [str(python), "-P", str(CONTRACT / "server.py"), str(theirs.fileno())],
                env=env,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=log.parent,
            )
        theirs.close()
        self.channel = ours
        self.channel.settimeout(300)
        self.stream = ours.makefile("rw", encoding="utf-8")
        self.hello = self._answer()
        self.seconds = time.monotonic() - start
        if not self.hello.get("ready"):
            said = self.hello.get("error") or log.read_text(errors="replace")[-3000:]
            self.close()
            raise EngineStartError(str(said))

    def _answer(self) -> dict[str, Any]:
        line = self.stream.readline()
        answer = json.loads(line) if line else {}
        return answer if isinstance(answer, dict) else {}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one plan and return the raw answer."""
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        return self._answer()

    def fits(self, env: Mapping[str, str]) -> bool:
        """Tell whether an import under ``env`` would have read the same values."""
        reads: dict[str, str | None] = self.hello["reads"]
        return all(
            env.get(name) == value for name, value in reads.items() if name not in IRRELEVANT_READS
        )

    def close(self) -> None:
        """End the process; it has no children of its own between two plans."""
        self.stream.close()
        self.channel.close()
        try:
            self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Pool:
    """The live processes, least recently used first, never more than ``limit``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.processes: OrderedDict[tuple[str, str, int], Process] = OrderedDict()

    def get(self, key: tuple[str, str], env: dict[str, str], python: Path, log: Path) -> Process:
        """Return a process of this key whose import would have gone the same under ``env``."""
        for known, process in self.processes.items():
            if known[:2] == key and process.fits(env):
                self.processes.move_to_end(known)
                return process
        while len(self.processes) >= self.limit:
            self.processes.popitem(last=False)[1].close()
        process = Process(python, env, log)
        self.processes[(*key, id(process))] = process
        return process

    def drop(self, process: Process) -> None:
        """End a process that stopped answering and forget it."""
        process.close()
        self.processes = OrderedDict((k, p) for k, p in self.processes.items() if p is not process)

    def close(self) -> None:
        """End every process; the next check starts its own."""
        while self.processes:
            self.processes.popitem()[1].close()


_POOL = Pool(MAX_PROCESSES)


def close_all() -> None:
    """End every engine process of the shared pool."""
    _POOL.close()


class Engine:
    """A release on a chip, ready to judge plans."""

    def __init__(
        self,
        release: str,
        chip: str,
        env: Mapping[str, str] | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.pool = pool or _POOL
        self.release = release
        self.chip = chip
        self.host_env = dict(os.environ if env is None else env)
        self.npu = CHIPS.get(chip.partition(":")[0])
        self.overlay = overlay_path(self.host_env, release, self.npu is not None)
        self.models = cache_dir(self.host_env) / "models"

    def check(
        self,
        env: Mapping[str, str],
        argv: Sequence[str],
        checkpoint: str | None = None,
        timeout_s: float = 120.0,
    ) -> Verdict:
        """Judge ``vllm serve MODEL …`` under ``env`` (the plan's variables, nothing else).

        MODEL, and where it is a path or a hub id every argument that contains it, is
        replaced by the directory of ``checkpoint`` (default: the W8A8 Flash on an
        NPU, the FP4 original on a GPU).
        Raises EngineStartError where the release cannot be imported.
        """
        name = checkpoint or ("flash-w8a8-mtp" if self.npu else "flash-fp4")
        if name not in CHECKPOINTS:
            raise KeyError(name)
        model = str(model_directory(self.models, name))
        base = self._base()
        process = self._process({**base, **env})
        answer = process.ask(
            {
                "env": dict(env),
                "base": base,
                "argv": _with_model(argv, model),
                "last_stage": "worker" if self.npu else "parse",
                "timeout": timeout_s,
            }
        )
        if not answer:
            self.pool.drop(process)
        return _verdict(answer)

    def import_seconds(self, env: Mapping[str, str] | None = None) -> float:
        """Return how long the process for this environment took to import the release."""
        return self._process({**self._base(), **(env or {})}).seconds

    def _base(self) -> dict[str, str]:
        """Return the environment every plan starts from: nothing of the user's but PATH."""
        cache = cache_dir(self.host_env)
        home = cache / "home"
        home.mkdir(parents=True, exist_ok=True)
        base = {
            "PATH": self.host_env.get("PATH", "/usr/bin:/bin"),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, [*self._standins(), *self.overlay])),
            "VLLM_CACHE_ROOT": str(cache / f"state-{self.release}-{self.chip.replace(':', '-')}"),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }
        return {**base, **self._described()}

    def _standins(self) -> list[Path]:
        return [CONTRACT / "standins"] if self.npu else []

    def _described(self) -> dict[str, str]:
        """Return the variables by which the stand-ins know the chip."""
        if self.npu is None:
            return {}
        return {
            "ASCEND_V4_CONTRACT_CHIP": self.chip,
            "ASCEND_V4_CONTRACT_BUILD": self.npu.build,
            "ASCEND_V4_CONTRACT_DEVICE_NAME": self.npu.device_name,
            "ASCEND_V4_CONTRACT_SOC": str(self.npu.soc),
            "ASCEND_V4_CONTRACT_DEVICES": str(self.npu.devices),
            "ASCEND_V4_CONTRACT_MEMORY_GIB": str(self.npu.memory_gib),
        }

    def _process(self, env: dict[str, str]) -> Process:
        """Return a live process whose import would have gone the same under ``env``."""
        log = cache_dir(self.host_env) / f"import-{self.release}-{self.chip.replace(':', '-')}.log"
        key = (self.release, self.chip)
        return self.pool.get(key, env, engine_python(self.host_env), log)


def _with_model(argv: Sequence[str], model: str) -> list[str]:
    """Return the command with its model replaced, also inside other arguments."""
    named = argv[2]
    rest = [word.replace(named, model) if "/" in named else word for word in argv[3:]]
    return [*argv[:2], model, *rest]


def _verdict(answer: dict[str, Any]) -> Verdict:
    """Turn a server's answer into a Verdict; a child that gave none is a failure."""
    if "accepted" not in answer:
        return Verdict(False, "config", "NoAnswer", "the check hung or its process died")
    log = tuple(answer["log"])
    return Verdict(
        accepted=answer["accepted"],
        stage=answer["stage"],
        error_type=answer["error_type"],
        message=answer["message"],
        warnings=tuple(line for line in log if TELLING.search(line)),
        seconds=answer["seconds"],
        log=log,
        traceback=answer["traceback"],
        output=answer["output"],
    )


@dataclass(frozen=True)
class Job:
    """One plan to judge, for ``check_all``; the fields are those of ``Engine.check``."""

    release: str
    chip: str
    env: Mapping[str, str]
    argv: Sequence[str]
    checkpoint: str | None = None


def check_all(jobs: Sequence[Job], env: Mapping[str, str] | None = None) -> list[Verdict]:
    """Judge many plans with ``MAX_PROCESSES`` engines at work; verdicts come in the jobs' order.

    Each release and chip is imported once (more often only where plans differ in a
    variable that is read while importing). A release that cannot be imported gives
    its plans a verdict of stage ``import``; IndexUnreachable is raised as it is.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault((job.release, job.chip), []).append(number)
    verdicts: dict[int, Verdict] = {}

    def work(group: tuple[tuple[str, str], list[int]]) -> None:
        (release, chip), numbers = group
        pool = Pool(1)
        try:
            for number in numbers:
                verdicts[number] = _one(Engine(release, chip, env, pool), jobs[number])
        finally:
            pool.close()

    close_all()
    # Big groups first, so that the two workers end at about the same time.
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    with ThreadPoolExecutor(MAX_PROCESSES) as workers:
        list(workers.map(work, ordered))
    return [verdicts[number] for number in range(len(jobs))]


def _one(engine: Engine, job: Job) -> Verdict:
    try:
        return engine.check(job.env, job.argv, job.checkpoint)
    except EngineStartError as error:
        return Verdict(False, "import", "EngineStartError", str(error))
