"""``ascend-v4 download``: a profile's or a model's weights, complete and checked."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from ascend_v4.cli.output import print_json, print_result, status
from ascend_v4.errors import AscendV4Error, ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ascend_v4.weights.download import Plan, Request, Result
    from ascend_v4.weights.source import Source

__all__ = ["command", "read_token", "stoppable"]

ENDPOINT_VARIABLE = {"modelscope": "MODELSCOPE_ENDPOINT", "huggingface": "HF_ENDPOINT"}
TOKEN_VARIABLE = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}
#: Bytes a second that a dry run gives times for: 100 Mbit/s, 1 Gbit/s and 10 Gbit/s.
RATES = (12_500_000, 125_000_000, 1_250_000_000)


class Stopped(KeyboardInterrupt):
    """A signal asked the download to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into :class:`Stopped` while the block runs."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        # A second Ctrl-C must not tear the cleaning up.
        for also in (signal.SIGINT, signal.SIGTERM):
            signal.signal(also, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command("download")
@click.option("--profile", envvar="ASCEND_V4_PROFILE", help="ascend, cuda or cpu.")
@click.option("--model", envvar="ASCEND_V4_MODEL", help="Catalog id, alias, or hub id ORG/NAME.")
@click.option(
    "--source",
    "hub",
    type=click.Choice(["modelscope", "huggingface"]),
    default="modelscope",
    show_default=True,
    help="Which hub.",
)
@click.option("--revision", help="Branch, tag or commit (default: the catalog's, else the newest).")
@click.option("--endpoint", help="Another address of the hub, or a mirror.")
@click.option(
    "--dir", "directory", type=click.Path(), help="Where to (default: where serve looks)."
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only files like this.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="No files like this.")
@click.option(
    "--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Files at once."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 32),
    default=8,
    show_default=True,
    help="Connections in all; 1 leaves everything to the ModelScope client.",
)
@click.option(
    "--limit-rate",
    metavar="BYTES",
    callback=lambda _c, _p, v: rate_of(v),
    help="A second: 50M, 1.5G.",
)
@click.option("--token-file", type=click.Path(), help="File with the hub's token.")
@click.option("--dry-run", is_flag=True, help="Say what, how large and where to; fetch nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Result and events as JSON.")
def command(
    profile: str | None,
    model: str | None,
    hub: str,
    revision: str | None,
    endpoint: str | None,
    directory: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    jobs: int,
    connections: int,
    limit_rate: int | None,
    token_file: str | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Fetch the weights of a profile or model, and check every byte.

    Only what is missing is transferred, so the same command goes on after an
    interruption. Prints the directory.
    """
    from ascend_v4.host.system import Host
    from ascend_v4.paths import model_dir
    from ascend_v4.weights.download import Request
    from ascend_v4.weights.source import ENDPOINTS, MOVING, resolve_model

    env = Host().env
    check_profile(profile)
    source = resolve_model(profile, model, hub)
    target = Path(directory) if directory else model_dir(env, source.repo)
    if source.hub == "local":
        return rehearse(target, dry_run, as_json)
    request = Request(
        source,
        revision or source.revision or MOVING[hub],
        endpoint or env.get(ENDPOINT_VARIABLE[hub]) or ENDPOINTS[hub],
        target.expanduser().absolute(),
        jobs,
        read_token(token_file, env, hub),
        connections,
        limit_rate,
        include,
        exclude,
    )
    if dry_run:
        return show_plan(request, env, as_json)
    return fetch(request, env, quiet, as_json)


def check_profile(profile: str | None) -> None:
    """Raise AscendV4Error (usage) for a profile that doesn't exist."""
    from ascend_v4.catalog.load import nearest

    known = ["ascend", "cuda", "cpu", "auto"]
    if profile is not None and profile not in known:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-profile",
            f"'{profile}' is not a profile; profiles are ascend, cuda and cpu. "
            f"{nearest(profile, known)}".rstrip(),
            "ascend-v4 profiles",
        )


def rate_of(text: str | None) -> int | None:
    """Return ``50M`` as bytes a second, None for None.

    Raises AscendV4Error (usage) for anything else.
    """
    if text is None:
        return None
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS:
        number, unit = text, ""
    try:
        rate = float(number) * UNITS.get(unit, 1)
    except ValueError:
        rate = 0.0
    if 1 <= rate < float("inf"):
        return int(rate)
    raise AscendV4Error(
        ExitCode.USAGE,
        "bad-rate",
        f"--limit-rate: '{text}' is not a number of bytes a second such as 50M",
        "ascend-v4 download --help",
    )


def read_token(
    token_file: str | None, env: Mapping[str, str], hub: str = "modelscope"
) -> str | None:
    """Return the hub's token from the file or the hub's own variable, None without one.

    Raises AscendV4Error (usage) for a file that can't be read or is empty.
    """
    if token_file is None:
        return env.get(TOKEN_VARIABLE[hub]) or None
    from ascend_v4.files import read_user_text

    token = read_user_text(token_file, "--token-file").strip()
    if token and not any(char.isspace() for char in token):
        return token
    raise AscendV4Error(
        ExitCode.USAGE,
        "bad-token-file",
        f"--token-file: {token_file} must hold the token and nothing else",
        f"ls -l {token_file}",
    )


def rehearse(directory: Path, dry_run: bool, as_json: bool) -> int:
    """Build the rehearsal checkpoint; nothing is downloaded."""
    from ascend_v4.rehearsal.build import build_rehearsal

    if not dry_run:
        status("building the rehearsal checkpoint: nothing is downloaded")
        build_rehearsal(directory)
    if as_json:
        print_json({"model": "rehearsal", "directory": str(directory), "fetched_bytes": 0})
    elif dry_run:
        print_result(f"rehearsal checkpoint, built locally, nothing to download\nto  {directory}")
    else:
        print_result(str(directory))
    return 0


def show_plan(request: Request, env: Mapping[str, str], as_json: bool) -> int:
    """Print what would be fetched."""
    from ascend_v4.weights.download import preview

    plan = preview(request, env)
    if as_json:
        print_json(plan_json(plan, request.limit))
    else:
        print_result(plan_text(plan, request.limit))
    return 0


def plan_json(plan: Plan, limit: int | None) -> dict[str, object]:
    """Return a plan as ``--dry-run --json`` prints it."""
    manifest = plan.manifest
    rates = (limit,) if limit else RATES
    return {
        "repo": manifest.repo,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "directory": str(plan.directory),
        "bytes": manifest.size,
        "missing_bytes": plan.missing,
        "free_bytes": plan.free,
        "seconds_at": {str(rate): round(plan.missing / rate, 1) for rate in rates},
        "files": [row.to_json() for row in manifest.files],
    }


def plan_text(plan: Plan, limit: int | None) -> str:
    """Return a plan as ``--dry-run`` prints it: every file, then the sums."""
    from ascend_v4.weights.progress import span
    from ascend_v4.weights.request import human

    manifest = plan.manifest
    times = [
        f"{span(plan.missing / rate)} at {rate / 1e6:g} MB/s"
        for rate in ((limit,) if limit else RATES)
    ]
    commit = f" (commit {manifest.commit[:12]})" if manifest.commit else ""
    lines = [f"{human(file.size):>10}  {file.path}" for file in manifest.files]
    return "\n".join(
        [
            *lines,
            f"{manifest.repo} at {manifest.revision}{commit}: {len(lines)} files, "
            f"{human(manifest.size)}, {human(plan.missing)} of it to fetch",
            f"to {plan.directory} ({human(plan.free)} free)",
            f"takes {', '.join(times)}",
        ]
    )


def fetch(request: Request, env: Mapping[str, str], quiet: bool, as_json: bool) -> int:
    """Download, and say how to go on when a signal ends it."""
    from ascend_v4.weights.download import download
    from ascend_v4.weights.progress import reporter

    try:
        with stoppable():
            result = download(request, env, reporter(sys.stderr, quiet, as_json))
    except Stopped as stopped:
        return say_stopped(request, 128 + stopped.number, as_json)
    show_result(result, quiet, as_json)
    return 0


def say_stopped(request: Request, code: int, as_json: bool) -> int:
    """Say that the download was interrupted and how to go on, and return the exit code."""
    message = f"interrupted; what has arrived is kept in {request.directory}"
    again = resume_command(request.source, request)
    if as_json:
        error = {"code": code, "kind": "interrupted", "message": message, "next": again}
        status(json.dumps({"error": error}))
    else:
        status(f"{message}\nnext:  {again}")
    return code


def resume_command(source: Source, request: Request) -> str:
    """Return a command that goes on where this one stopped."""
    from ascend_v4.weights.manifest import public_endpoint
    from ascend_v4.weights.request import Request

    words = ["ascend-v4", "download", "--model", source.repo, "--revision", request.revision]
    if source.hub != "modelscope":
        words += ["--source", source.hub]
    for pattern in request.selection:
        words += ["--include" if pattern[0] == "+" else "--exclude", pattern[1:]]
    plain = Request(source, request.revision, request.endpoint, request.directory)
    for name in ("jobs", "connections"):
        if getattr(request, name) != getattr(plain, name):
            words += [f"--{name}", str(getattr(request, name))]
    if request.limit:
        words += ["--limit-rate", str(request.limit)]
    words += ["--endpoint", public_endpoint(request.endpoint), "--dir", str(request.directory)]
    return shlex.join(words) + ("  (with the same token)" if request.token else "")


def show_result(result: Result, quiet: bool, as_json: bool) -> None:
    """Print the directory, or the result object, and what couldn't be checked."""
    if result.unhashed and not quiet and not as_json:
        count = len(result.unhashed)
        status(f"warning: the hub gives no hash for {count} files; only their sizes were checked")
    if not as_json:
        return print_result(str(result.directory))
    manifest = result.manifest
    return print_json(
        {
            "repo": manifest.repo,
            "revision": manifest.revision,
            "commit": manifest.commit,
            "directory": str(result.directory),
            "bytes": manifest.size,
            "files": len(manifest.files),
            "fetched_bytes": result.fetched,
            "unhashed": list(result.unhashed),
        }
    )
