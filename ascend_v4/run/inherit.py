"""The environment a server starts with: what was inherited, cleaned, and the plan's own.

A stale ``export`` in an image or a ``.bashrc`` must not spoil a plan, so what the plan
unsets is dropped and what it sets wins; both are said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ascend_v4.core.finding import Evidence, Finding
from ascend_v4.core.plan import Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["clean_environment", "jemalloc", "read_secret"]

#: Where distributions put jemalloc; the Ascend tutorials preload the first.
JEMALLOC = (
    "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2",
    "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
    "/usr/lib64/libjemalloc.so.2",
    "/usr/lib/libjemalloc.so.2",
)
SOURCE = "https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190"


def clean_environment(
    inherited: Mapping[str, str], process: Process
) -> tuple[dict[str, str], list[Finding]]:
    """Return the server's environment and a finding for each inherited value that gave way.

    Secrets are read from their files here; their values are in no finding.
    """
    env, findings = dict(inherited), []
    for name in process.unset:
        if env.pop(name, None) is not None:
            findings.append(gave_way(name, f"{name}={inherited[name]}", "dropped"))
    for name, value in process.env.items():
        old = inherited.get(name)
        if old is not None and old != value:
            findings.append(gave_way(name, f"{name}={old}", f"replaced by {value}"))
    env.update(process.env)
    for name, path in process.secret_env.items():
        env[name] = read_secret(path)
    return env, findings


def gave_way(name: str, text: str, what: str) -> Finding:
    """Return the finding of an inherited variable that the plan dropped or replaced."""
    return Finding(
        f"inherited-{name.lower().replace('_', '-')}",
        "warn",
        f"the environment already held {text}, which would spoil the plan: {what}",
        f"remove the export of {name} from the image or the shell's start files",
        SOURCE,
        evidence=(Evidence("environment", 0, text),),
    )


def read_secret(path: str) -> str:
    """Return the secret in a file, without its line break.

    Raises AscendV4Error (usage) for a file that can't be read or is empty, or holds what no
    HTTP header can.
    """
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AscendV4Error(
            ExitCode.USAGE, "no-secret", f"--api-key-file: {path} can't be read", f"ls -l {path}"
        ) from error
    if not secret:
        raise AscendV4Error(
            ExitCode.USAGE, "no-secret", f"--api-key-file: {path} is empty", f"ls -l {path}"
        )
    if not (secret.isprintable() and secret.isascii()):
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-secret",
            f"--api-key-file: {path} holds more than one line of ASCII, which no HTTP header can",
            f"wc -l {path}",
        )
    return secret


def jemalloc(host: Host, env: dict[str, str]) -> str | None:
    """Preload jemalloc in ``env`` where the file exists; return its path, or None."""
    found = next((path for path in JEMALLOC if host.exists(path)), None)
    before = env.get("LD_PRELOAD", "")
    if found and found not in before.split(":"):
        env["LD_PRELOAD"] = f"{found}:{before}" if before else found
    return found
