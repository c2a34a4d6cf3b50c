"""Installs what prefill and decode apart need: vllm-router, and NIXL in the CPU engine.

Both are pinned by version and hash. The router gets an environment of its own: it is a
Rust program that needs nothing of vLLM.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ascend_v4.engine.interpreter import find_python
from ascend_v4.engine.locate import REQUIREMENTS, read_stamp
from ascend_v4.engine.pip import Pip, requirement_blocks
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["install_nixl", "install_router"]

ADDONS = Path(__file__).with_name("addon-requirements.txt")
#: What vllm-router 0.1.17 and its dependencies name (their METADATA).
ROUTER_NEEDS = tuple(
    """
    setproctitle aiohttp uvicorn fastapi requests aiohappyeyeballs aiosignal annotated-doc
    annotated-types anyio attrs certifi charset-normalizer click frozenlist h11 idna multidict
    opentelemetry-api propcache pydantic pydantic-core starlette typing-extensions
    typing-inspection urllib3 yarl
    """.split()  # noqa: SIM905
)
NIXL = ("nixl", "nixl-cu12")
ROUTER = ("vllm-router", "orjson")
#: Written last: an interrupted installation has none.
DONE = "ascend-v4-router"
TIMEOUT_S = 120.0

Say = Callable[[str], None]


def install_router(host: Host, directory: Path, *, say: Say) -> str:
    """Install vllm-router into ``directory`` and return the path of its program.

    Does nothing when it is there already; an interrupted installation is done again.
    Raises AscendV4Error as ``install_cpu_engine`` does.
    """
    directory = directory.absolute()
    program = directory / "bin" / "vllm-router"
    pinned = requirement_blocks(ADDONS.read_text(encoding="utf-8"))
    mark = directory / DONE
    if mark.is_file() and mark.read_text(encoding="utf-8") == pinned["vllm-router"]:
        say(f"vllm-router is installed in {directory}")
        return str(program)
    clear(directory)
    python = find_python(host)
    say(f"installing vllm-router into {directory} with Python {python.version}: 30 MB to download")
    done = host.run([python.path, "-I", "-m", "venv", str(directory)], 300.0)
    if not done.ok:
        raise broken(f"{python.path} could not make a virtual environment", done.stderr)
    shared = requirement_blocks(REQUIREMENTS.read_text(encoding="utf-8"))
    blocks = [pinned[name] for name in ROUTER] + [shared[name] for name in ROUTER_NEEDS]
    Pip(host, directory).install_locked(blocks)
    look(host, [str(program), "--help"], "vllm-router")
    mark.write_text(pinned["vllm-router"], encoding="utf-8")
    return str(program)


def install_nixl(host: Host, directory: Path, *, say: Say) -> None:
    """Install NIXL into the CPU engine in ``directory``; nothing where it is there already.

    Raises AscendV4Error (host not ready) where there is no engine of ours.
    """
    directory = directory.absolute()
    if read_stamp(directory) is None:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-engine",
            f"there is no CPU engine in {directory} that NIXL could go into",
            "ascend-v4 engine install --profile cpu",
        )
    if list(directory.glob("lib/python3*/site-packages/nixl_cu12-*.dist-info/RECORD")):
        say(f"NIXL is installed in {directory}")
        return
    say(f"installing NIXL into {directory}: 55 MB to download, 240 MB on disk")
    pinned = requirement_blocks(ADDONS.read_text(encoding="utf-8"))
    Pip(host, directory).install_locked([pinned[name] for name in NIXL])
    look(host, [str(directory / "bin" / "python"), "-I", "-c", "import nixl._api"], "NIXL")


def clear(directory: Path) -> None:
    """Remove what an interrupted installation left; a directory that is not ours is refused."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not (directory / "pyvenv.cfg").is_file():
        raise AscendV4Error(
            ExitCode.REFUSED,
            "not-an-engine",
            f"{directory} holds something that ascend-v4 did not install; it is left as it is",
            "move it away, or set ASCEND_V4_ENGINES to another directory",
        )
    shutil.rmtree(directory)


def look(host: Host, command: list[str], what: str) -> None:
    """Run what was installed once; raises AscendV4Error (host not ready) where it fails."""
    done = host.run(command, TIMEOUT_S)
    if not done.ok:
        raise broken(f"the installed {what} does not work on this machine", done.stderr)


def broken(cause: str, output: str) -> AscendV4Error:
    """Return the error of a step that failed, with the last line of its output."""
    last = (output.strip().splitlines() or ["no output"])[-1]
    return AscendV4Error(
        ExitCode.HOST_NOT_READY, "addon-broken", f"{cause}: {last}", "see docs/cluster.md"
    )
