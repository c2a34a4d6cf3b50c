"""``serve --check-engine``: ask the engine that will be launched, before it loads anything.

The same parser and start-up checks that ``vllm serve`` runs first are run alone, so an
unknown flag or a refused combination fails in seconds instead of after a long load.
Verdicts are kept by engine version, arguments and environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Completed, Host
from ascend_v4.paths import base_dir

from .locate import installed_version

__all__ = ["Ask", "check_engine", "interpreter_of"]

#: Runs a command in an environment for at most so many seconds.
Ask = Callable[[Sequence[str], Mapping[str, str], float], Completed]

CHILD = Path(__file__).with_name("precheck_child.py")
#: Importing vLLM takes 10 to 20 s on a slow disk; past this it has hung.
TIMEOUT_S = 180.0
#: Variables that engines, back-ends and libraries read; others can't change a verdict.
RELEVANT = (
    *("VLLM_", "ASCEND_", "HCCL_", "USE_", "TASK_", "PYTORCH_", "TORCH", "CUDA_", "NVIDIA_"),
    *("HF_", "TRANSFORMERS_", "LD_", "PYTHON", "OMP_", "DYNAMIC_", "EXPERT_", "TRITON_"),
)
#: Differ from launch to launch and change no verdict: flags with one value, and variables.
LISTENING = ("--port", "--host")
IRRELEVANT = ("VLLM_API_KEY", "ASCEND_V4_RUN_ID")


def interpreter_of(program: Path) -> Path | None:
    """Return the Python that runs an installed ``vllm``, or None if it can't be told."""
    beside = program.parent / "python"
    if beside.exists():
        return beside
    try:
        with program.open("rb") as stream:
            first = stream.readline(512).decode(errors="replace").strip()
    except OSError:
        return None
    named = Path(first.removeprefix("#!").split()[0]) if first.startswith("#!/") else None
    return named if named and "python" in named.name else None


def fingerprint(program: Path, argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Return the key of a verdict: engine, arguments, and the environment that can matter."""
    versions = [installed_version(program, name) for name in ("vllm", "vllm-ascend")]
    relevant = {
        name: value
        for name, value in env.items()
        if name.startswith(RELEVANT)
        and name not in IRRELEVANT
        and not name.startswith("ASCEND_V4_")
    }
    pairs = zip(["", *argv], argv, strict=False)
    words = [word for before, word in pairs if not {before, word} & set(LISTENING)]
    body = json.dumps([str(program), versions, words, sorted(relevant.items())])
    return hashlib.sha256(body.encode()).hexdigest()


def cache_file(env: Mapping[str, str], key: str) -> Path:
    """Return where a verdict is kept."""
    return base_dir(env, "XDG_CACHE_HOME", ".cache") / "engine-checks" / f"{key}.json"


def check_engine(
    host: Host, program: Path, argv: Sequence[str], env: Mapping[str, str], ask: Ask | None = None
) -> str:
    """Run the engine's own checks on ``argv`` (from ``serve`` on); return what to tell the user.

    ``env`` is the server's whole environment, ``ask`` what runs them. Raises AscendV4Error
    (refused) with the engine's own words. When the checks can't be run, says so and lets
    the launch go on.
    """
    python = interpreter_of(program)
    if python is None:
        return f"the engine was not asked beforehand: no Python found behind {program}"
    kept = cache_file(host.env, fingerprint(program, argv, env))
    if kept.exists():
        return "the engine's own checks passed before for this very launch"
    command = [str(python), str(CHILD), *argv]
    done = ask(command, env, TIMEOUT_S) if ask else Host(host.root, env).run(command, TIMEOUT_S)
    verdict = read_verdict(done.stdout)
    if verdict is None or verdict["stage"] == "import":
        why = verdict["message"] if verdict else (done.stderr.strip().splitlines() or ["?"])[-1]
        return f"the engine was not asked beforehand: {why}"
    if verdict["stage"] != "ok":
        what = "its argument parser" if verdict["stage"] == "parse" else "its start-up checks"
        raise AscendV4Error(
            ExitCode.REFUSED,
            f"engine-refused-{verdict['stage']}",
            f"the installed engine refuses this launch in {what}: {verdict['message']}",
            "change what it names; --no-check-engine launches all the same",
        )
    # A cache that can't be written only costs the next launch some seconds.
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("{}\n", encoding="utf-8")
    return "the engine's own checks passed"


def read_verdict(text: str) -> dict[str, str] | None:
    """Return the verdict on the last line of the child's output, or None without one."""
    for line in reversed(text.splitlines()):
        try:
            verdict = json.loads(line)
        except ValueError:
            continue
        if isinstance(verdict, dict) and "stage" in verdict:
            return verdict
    return None
