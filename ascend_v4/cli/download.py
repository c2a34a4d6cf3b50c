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

__all__ = ["command"]


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
@click.option("--revision", help="Branch, tag or commit (default: the catalog's, else master).")
@click.option(
    "--endpoint", envvar="MODELSCOPE_ENDPOINT", help="Another address of the hub, or a mirror."
)
@click.option(
    "--dir", "directory", type=click.Path(), help="Where to (default: where serve looks)."
)
@click.option(
    "--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Files at once."
)
@click.option(
    "--token-file", type=click.Path(), help="File with the hub token (else MODELSCOPE_API_TOKEN)."
)
@click.option("--dry-run", is_flag=True, help="Say what, how large and where to; fetch nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Result and events as JSON.")
def command(
    profile: str | None,
    model: str | None,
    revision: str | None,
    endpoint: str | None,
    directory: str | None,
    jobs: int,
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
    from ascend_v4.weights.source import DEFAULT_ENDPOINT, resolve_model

    env = Host().env
    check_profile(profile)
    source = resolve_model(profile, model)
    target = Path(directory) if directory else model_dir(env, source.repo)
    if source.hub == "local":
        return rehearse(target, dry_run, as_json)
    request = Request(
        source,
        revision or source.revision or "master",
        endpoint or DEFAULT_ENDPOINT,
        target.expanduser().absolute(),
        jobs,
        read_token(token_file, env),
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


def read_token(token_file: str | None, env: Mapping[str, str]) -> str | None:
    """Return the hub's token from the file or MODELSCOPE_API_TOKEN, None without one.

    Raises AscendV4Error (usage) for a file that can't be read or is empty.
    """
    if token_file is None:
        return env.get("MODELSCOPE_API_TOKEN") or None
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
        print_json(plan_json(plan))
    else:
        print_result(plan_text(plan))
    return 0


def plan_json(plan: Plan) -> dict[str, object]:
    """Return a plan as ``--dry-run --json`` prints it."""
    manifest = plan.manifest
    return {
        "repo": manifest.repo,
        "revision": manifest.revision,
        "directory": str(plan.directory),
        "bytes": manifest.size,
        "missing_bytes": plan.missing,
        "free_bytes": plan.free,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in manifest.files],
    }


def plan_text(plan: Plan) -> str:
    """Return a plan as ``--dry-run`` prints it: every file, then the sums."""
    from ascend_v4.weights.download import human

    manifest = plan.manifest
    lines = [f"{human(file.size):>10}  {file.path}" for file in manifest.files]
    return "\n".join(
        [
            *lines,
            f"{manifest.repo} at {manifest.revision}: {len(lines)} files, {human(manifest.size)}, "
            f"{human(plan.missing)} of it to fetch",
            f"to {plan.directory} ({human(plan.free)} free)",
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

    words = ["ascend-v4", "download", "--model", source.repo, "--revision", request.revision]
    words += ["--endpoint", public_endpoint(request.endpoint), "--dir", str(request.directory)]
    return shlex.join(words) + ("  (with the same token)" if request.token else "")


def show_result(result: Result, quiet: bool, as_json: bool) -> None:
    """Print the directory, or the result object, and what couldn't be checked."""
    if result.unhashed and not quiet and not as_json:
        count = len(result.unhashed)
        status(f"warning: the hub gives no sha256 for {count} files; only their sizes were checked")
    if not as_json:
        return print_result(str(result.directory))
    manifest = result.manifest
    return print_json(
        {
            "repo": manifest.repo,
            "revision": manifest.revision,
            "directory": str(result.directory),
            "bytes": manifest.size,
            "files": len(manifest.files),
            "fetched_bytes": result.fetched,
            "unhashed": list(result.unhashed),
        }
    )
