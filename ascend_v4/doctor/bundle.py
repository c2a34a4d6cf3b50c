"""``--bundle``: what a maintainer asks for, in one archive, with secrets masked."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from ascend_v4 import __version__
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host
from ascend_v4.run.logs import Masker

from .examine import Report
from .report import text_report

__all__ = ["mask_environment", "write_bundle"]

SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|PRIVATE|SESSION", re.IGNORECASE
)
URL_LOGIN = re.compile(r"(://)[^/@\s:]+(?::[^/@\s]*)?@")
FILES = (
    "/etc/os-release",
    "/etc/ascend_install.info",
    "/etc/hccn.conf",
    "/usr/local/Ascend/driver/version.info",
    "/usr/local/Ascend/firmware/version.info",
    "/proc/version",
    "/proc/meminfo",
    "/proc/self/limits",
    "/proc/self/cgroup",
    "/proc/sys/net/ipv4/ip_local_port_range",
)
COMMANDS = (
    ("npu-smi-info", ("npu-smi", "info")),
    ("npu-smi-map", ("npu-smi", "info", "-m")),
    ("npu-smi-topo", ("npu-smi", "info", "-t", "topo")),
    ("dmesg", ("dmesg", "--ctime")),
)
LOG_FILES = 64
TAIL_CHARS = 200_000


def mask_environment(env: dict[str, str]) -> dict[str, str]:
    """Return the environment with the values of secrets, and logins in URLs, replaced."""
    return {
        name: "***" if SECRET_NAME.search(name) and value else URL_LOGIN.sub(r"\1***@", value)
        for name, value in sorted(env.items())
    }


def secrets_of(env: dict[str, str]) -> list[str]:
    """Return the values that must appear nowhere in the archive."""
    return [value for name, value in env.items() if SECRET_NAME.search(name) and len(value) >= 8]


def write_bundle(report: Report, path: Path, say: Callable[[str], None]) -> None:
    """Write the archive, readable by its owner only.

    Raises AscendV4Error (usage) when it can't be written.
    """
    host = report.look.host
    env = dict(host.env)
    mask = Masker(secrets_of(env))
    parts = collect(report, host)
    try:
        with path.open("wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            path.chmod(0o600)
            for name, text in parts.items():
                held = "\n".join(URL_LOGIN.sub(r"\1***@", mask(line)) for line in text.split("\n"))
                add(archive, f"ascend-v4-bundle/{name}", held)
    except OSError as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "bundle-not-written",
            f"{path} can't be written: {error.strerror or error}",
            "name another place: --bundle /tmp/out.tgz",
        ) from error
    say(f"wrote {path}: {len(parts)} files, secrets masked; look through it before you send it")


def add(archive: tarfile.TarFile, name: str, text: str) -> None:
    """Add a text to an archive."""
    data = text.encode("utf-8", "replace")
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    archive.addfile(info, io.BytesIO(data))


def collect(report: Report, host: Host) -> dict[str, str]:
    """Return the texts of the archive by name."""
    parts = {
        "report.txt": text_report(report, verbose=True) + "\n",
        "report.json": json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n",
        "environment.txt": "".join(
            f"{name}={value}\n" for name, value in mask_environment(dict(host.env)).items()
        ),
        "version.txt": f"ascend-v4 {__version__}\n",
    }
    if report.look.compiled:
        plan = report.look.compiled.plan.to_json()
        parts["plan.json"] = json.dumps(plan, indent=1, ensure_ascii=False) + "\n"
    for name in FILES:
        text = host.read_text(name)
        if text:
            parts[f"files{name}"] = text
    for name, argv in COMMANDS:
        program = host.which(argv[0])
        if program:
            done = host.run([program, *argv[1:]], timeout_s=report.look.tool_s)
            parts[f"commands/{name}.txt"] = (
                f"exit {done.returncode}\n" + (f"{done.stdout}\n{done.stderr}"[-TAIL_CHARS:])
            )
    return parts | first_errors(host)


def first_errors(host: Host) -> dict[str, str]:
    """Return the diagnosis of the newest logs: our runs', and CANN's own below ~/ascend/log."""
    from ascend_v4.diagnose import diagnose_paths
    from ascend_v4.diagnose.report import report as told
    from ascend_v4.run.state import all_runs

    paths = [path for run in all_runs(host.env)[-1:] for path in run.path.glob("logs/*.log*")]
    home = host.env.get("HOME", "")
    if home:
        paths += [path for path in Path(home, "ascend", "log").rglob("*.log") if path.is_file()]
    newest = sorted(paths, key=lambda path: -path.stat().st_mtime)[:LOG_FILES]
    if not newest:
        return {"first-errors.txt": "no logs of runs and none in ~/ascend/log\n"}
    return {"first-errors.txt": told(diagnose_paths(sorted(newest))) + "\n"}
