"""The download from listing to checked directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode

from .check import Stamps
from .lock import locked
from .manifest import Manifest, check_listing, load_manifest, public_endpoint, read_rows
from .parts import present_bytes
from .request import Plan, Reporter, Request, Result, free_bytes, human
from .session import HubSession
from .transfer import Transfer

__all__ = [
    "Plan",
    "Reporter",
    "Request",
    "Result",
    "download",
    "human",
    "list_files",
    "preview",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def list_files(
    session: HubSession, request: Request, revision: str | None = None
) -> tuple[Manifest, frozenset[str]]:
    """Return the manifest of what the hub lists, if a checkpoint can be whole from it.

    With it come the paths of all files listed, those that the request leaves out
    included. Raises AscendV4Error: unreachable or usage from the hub, incomplete for a
    listing that lacks a part, refused for a path outside the directory.
    """
    repo = request.source.repo
    listed, commit = session.listing(repo, revision or request.revision)
    rows = read_rows(listed, repo)
    check_listing(rows, repo)
    chosen = tuple(row for row in rows if _chosen(row.path, request))
    if not chosen:
        raise AscendV4Error(
            ExitCode.USAGE,
            "nothing-selected",
            f"none of the {len(rows)} files of {repo} is picked by --include and --exclude",
            "ascend-v4 download --dry-run lists them",
        )
    manifest = Manifest(
        request.source.hub,
        repo,
        request.endpoint,
        request.revision,
        chosen,
        commit=commit,
        selection=request.selection,
    )
    return manifest, frozenset(row.path for row in rows)


def _chosen(path: str, request: Request) -> bool:
    taken = not request.include or any(fnmatch(path, p) for p in request.include)
    return taken and not any(fnmatch(path, p) for p in request.exclude)


def preview(request: Request, env: Mapping[str, str]) -> Plan:
    """List the files and count what is missing; nothing is written."""
    with _session(request, env) as session:
        manifest, _ = list_files(session, request)
    missing = sum(row.size - present_bytes(request.directory, row) for row in manifest.files)
    return Plan(manifest, request.directory, missing, free_bytes(request.directory))


def _session(request: Request, env: Mapping[str, str]) -> HubSession:
    return HubSession(env, request.endpoint, request.token, hub=request.source.hub)


def download(request: Request, env: Mapping[str, str], report: Reporter) -> Result:
    """Make ``request.directory`` a complete, checked copy of the repository.

    Only missing bytes are transferred; a complete directory costs one listing, and
    nothing at all when the revision is a commit or the hub is down. A download that was
    interrupted goes on with the commit that it began with. Raises AscendV4Error with the
    codes of the shared table; once anything was written, the manifest beside the weights
    then says ``complete: false``.
    """
    directory, before = request.directory, load_manifest(request.directory)
    fixed = _COMMIT.fullmatch(request.revision) and _settled(before, before, request)
    if before is not None and fixed:
        # What a commit holds never changes, so the hub has nothing to add.
        report.status(f"{directory} is complete, nothing to download")
        return result_of(before, directory, 0)
    report.status(
        f"listing {request.source.repo} at {request.revision} on "
        f"{public_endpoint(request.endpoint)}"
    )
    with _session(request, env) as session:
        try:
            manifest, listed = _resolve(session, request, before, report)
        except AscendV4Error as error:
            if error.code != ExitCode.UNREACHABLE or not _settled(before, before, request):
                raise
            assert before is not None
            report.status(f"{error.message}; {directory} is complete as of its last download")
            return result_of(before, directory, 0)
        if _settled(before, manifest, request):
            report.status(f"{directory} is complete, nothing to download")
            return result_of(manifest, directory, 0)
        return _locked_download(request, report, session, manifest, listed)


def _locked_download(
    request: Request,
    report: Reporter,
    session: HubSession,
    manifest: Manifest,
    listed: frozenset[str],
) -> Result:
    """Download what is missing under the directory's lock."""
    directory = request.directory
    with locked(directory, report.status) as lock:
        session.hold(lock)
        try:
            fetched = Transfer(request, report, session).run(manifest, listed)
            return result_of(manifest, directory, fetched)
        except OSError as error:
            raise AscendV4Error(
                ExitCode.HOST_NOT_READY,
                "cannot-write",
                f"{error.filename or directory} can't be written: {error.strerror}",
                "make room or choose another --dir",
            ) from error


def _resolve(
    session: HubSession, request: Request, before: Manifest | None, report: Reporter
) -> tuple[Manifest, frozenset[str]]:
    """Return what to download, at a commit where the hub names one."""
    begun = before is not None and not before.complete and _asked_before(before, request)
    if begun and before is not None and before.commit and before.commit != request.revision:
        try:
            manifest, listed = list_files(session, request, before.commit)
            return replace(manifest, commit=before.commit), listed
        except AscendV4Error as error:
            if error.code == ExitCode.UNREACHABLE:
                raise
            report.status(f"the hub no longer lists commit {before.commit[:12]}; taking the newest")
    manifest, listed = list_files(session, request)
    if _settled(before, manifest, request) or manifest.commit in (None, request.revision):
        return manifest, listed
    try:
        pinned, listed_at = list_files(session, request, manifest.commit)
    except AscendV4Error:
        # The revision moves on if its owner pushes; sizes and hashes then tell.
        return replace(manifest, commit=None), listed
    return replace(pinned, commit=manifest.commit), listed_at


def _asked_before(before: Manifest, request: Request) -> bool:
    """Whether a saved manifest answers this request."""
    same = (before.hub, before.repo, before.revision, before.selection)
    return same == (
        request.source.hub,
        request.source.repo,
        request.revision,
        request.selection,
    )


def _settled(before: Manifest | None, manifest: Manifest | None, request: Request) -> bool:
    """Whether the directory was complete with these files and none changed since."""
    if before is None or manifest is None or not before.complete:
        return False
    stamps = Stamps(request.directory)
    return (
        _asked_before(before, request)
        and before.files == manifest.files
        and all(map(stamps.holds, manifest.files))
    )


def result_of(manifest: Manifest, directory: Path, fetched: int) -> Result:
    """Return the result of a download that made ``directory`` complete."""
    unhashed = tuple(row.path for row in manifest.files if row.digest is None)
    return Result(manifest.done(), directory, fetched, unhashed)
