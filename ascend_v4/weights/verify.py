"""Whether weights on disk are what they should be: the quick check and the deep one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ascend_v4.core.finding import Finding
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

from .check import Stamps, check_files
from .inspect import DAMAGED, MISSING, FileVerdict, look_through
from .kind import checkpoint_of, model_of
from .manifest import FileRow, Manifest, load_manifest
from .place import sidecars
from .request import Reporter, human
from .source import ENDPOINTS

__all__ = ["FileVerdict", "Report", "deepen", "judge", "quick", "suits", "survey"]


@dataclass(frozen=True)
class Report:
    """What a check found. ``checkpoint`` is the catalog id, None for a kind we don't know.

    ``read`` is the number of bytes that a deep check had to read, ``stamped`` the files
    it didn't have to.
    """

    directory: Path
    files: tuple[FileVerdict, ...]
    findings: tuple[Finding, ...]
    checkpoint: str | None
    manifest: Manifest | None
    deep: bool = False
    read: int = 0
    stamped: int = 0

    def bad(self) -> list[FileVerdict]:
        """Return the files that are missing or damaged."""
        return [file for file in self.files if file.verdict in MISSING | DAMAGED]


def survey(directory: Path, env: Mapping[str, str], manifest: Manifest | None = None) -> Report:
    """Return what a quick look finds in a directory; nothing is raised for what it finds.

    ``manifest`` says what should be there; by default the one kept for the directory.
    Raises AscendV4Error (weights incomplete) when there is no such directory.
    """
    if directory.is_file():
        raise AscendV4Error(
            ExitCode.WEIGHTS_INCOMPLETE,
            "no-weights",
            f"{directory} is a file, not a directory of weights",
            f"ascend-v4 verify {directory.parent}",
        )
    if not directory.is_dir():
        raise AscendV4Error(
            ExitCode.WEIGHTS_INCOMPLETE,
            "no-weights",
            f"there is no directory {directory}",
            _fetching(directory),
        )
    manifest = manifest or load_manifest(directory, sidecars(directory, env))
    files, findings = look_through(directory, manifest)
    named = {file.path: file for file in files}
    config = named["config.json"]
    checkpoint = None
    if config.verdict == "good":
        try:
            checkpoint = checkpoint_of(str(directory))
        except AscendV4Error:
            named["config.json"] = replace(config, verdict="unreadable", detail="it is not JSON")
    return Report(directory, tuple(named.values()), tuple(findings), checkpoint, manifest)


def quick(
    directory: Path | str,
    checkpoint: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    next_command: str = "",
    because: str = "",
) -> list[FileVerdict]:
    """Check weights without reading tensors and return a verdict on each file.

    ``checkpoint`` is the catalog id that is wanted, None for any. ``next_command`` is
    what to type when files are missing, ``because`` completes the sentence about
    weights of another kind. Raises AscendV4Error: incomplete (4), corrupt (13) or of
    the wrong kind (14).
    """
    report = survey(Path(directory), Host().env if env is None else env)
    judge(report, checkpoint, next_command, because)
    return list(report.files)


def judge(
    report: Report,
    checkpoint: str | None = None,
    next_command: str = "",
    because: str = "",
    model: str | None = None,
) -> None:
    """Raise AscendV4Error for the worst thing in a report: 14, 13, 4 or, when deep, 15.

    ``model`` is what the user calls the weights, for the command that mends them.
    """
    where, bad = report.directory, report.bad()
    if checkpoint and report.checkpoint not in (None, checkpoint):
        raise AscendV4Error(
            ExitCode.WEIGHTS_WRONG_KIND,
            "wrong-weights",
            f"{where} holds {report.checkpoint}, and this launch is for {checkpoint}{because}",
            next_command or f"ascend-v4 download --model {checkpoint}",
        )
    repair = _mending(report, model)
    damaged = [file for file in bad if file.verdict in DAMAGED]
    if damaged:
        raise AscendV4Error(
            ExitCode.WEIGHTS_CORRUPT, "weights-corrupt", _sentence(where, damaged), repair
        )
    if bad:
        then = next_command or repair
        raise AscendV4Error(
            ExitCode.WEIGHTS_INCOMPLETE, "weights-incomplete", _sentence(where, bad), then
        )
    unhashed = [file for file in report.files if file.verdict == "unhashed"]
    if unhashed:
        raise AscendV4Error(
            ExitCode.WEIGHTS_UNVERIFIABLE,
            "weights-unverifiable",
            f"{where}: there is no hash to compare {len(unhashed)} of {len(report.files)} files "
            f"with, {unhashed[0].path} first",
            f"ascend-v4 verify {where} --repair builds it again, which is its only full check; "
            f"ascend-v4 verify {where} looks at sizes and headers"
            if report.checkpoint == "rehearsal"
            else f"ascend-v4 verify {where} --deep --manifest fetch (or a file with the hashes)",
        )


def _mending(report: Report, model: str | None) -> str:
    """Return a command that makes the directory whole, as far as it is known what it holds."""
    where, manifest = report.directory, report.manifest
    repair = f"ascend-v4 verify {where} --repair"
    if model:
        return f"{repair} --model {model}"
    if model_of(where) or (manifest is not None and manifest.hub in ENDPOINTS):
        return repair
    return _fetching(where)


def _fetching(directory: Path) -> str:
    """Return a command that downloads into a directory, by what its name says."""
    if model := model_of(directory):
        return f"ascend-v4 download --model {model} --dir {directory}"
    return f"ascend-v4 download --profile ascend --dir {directory} (or --model ID)"


def _sentence(where: Path, bad: Sequence[FileVerdict]) -> str:
    first = "; ".join(f"{file.path}: {file.detail}" for file in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"the weights in {where} can't be served: {first}{more}"


def suits(checkpoint: str | None, chip: str | None, profile: str | None, release: Any) -> str:
    """Return why a checkpoint isn't for a chip, profile or release; ``""`` when it is.

    ``release`` is ``(engine, version)`` or None; the rest None where it wasn't said.
    """
    from ascend_v4.catalog.load import catalog

    row = catalog().checkpoint(checkpoint) if checkpoint else None
    if row is None:
        return ""
    chips, known = row["chips"], catalog()
    if chip:
        found = known.chip(chip)
        if found["id"] not in chips and found["profile"] not in chips:
            return f"{checkpoint} is for {', '.join(chips)}, not for {chip}"
    elif profile and profile not in chips:
        members = {c["id"] for c in known.table("chips") if c["profile"] == profile}
        if not members & set(chips):
            return f"{checkpoint} is for {', '.join(chips)}, not for the profile {profile}"
    if release:
        engine, version = release
        since = row["since"].get(engine)
        if since is None:
            return f"{checkpoint} isn't served by {engine}"
        if known.rank(engine, version) < known.rank(engine, since):
            return f"{checkpoint} needs {engine} {since} or later, not {version}"
    return ""


def deepen(
    report: Report, env: Mapping[str, str], show: Reporter, jobs: int, use_stamps: bool = True
) -> Report:
    """Return the report with every file's content compared with its hash.

    Files whose stamp holds aren't read again. What was read is stamped at once, so an
    interrupted check goes on where it was.
    """
    rows = {row.path: row for row in report.manifest.files} if report.manifest else {}
    stamps = Stamps(report.directory, sidecars(report.directory, env))
    sound = [file for file in report.files if file.verdict == "good"]
    hashed = [rows[f.path] for f in sound if f.path in rows and rows[f.path].digest]
    unread = [row for row in hashed if not (use_stamps and stamps.holds(row))]
    verdicts = _read(report.directory, unread, show, jobs, stamps) if unread else {}
    files = tuple(_deeper(file, rows.get(file.path), verdicts) for file in report.files)
    size = sum(row.size for row in unread)
    show.status(f"{len(unread)} files read ({human(size)}), {len(hashed) - len(unread)} by stamp")
    return replace(report, files=files, deep=True, read=size, stamped=len(hashed) - len(unread))


def _deeper(file: FileVerdict, row: FileRow | None, verdicts: Mapping[str, str]) -> FileVerdict:
    """Return a file's verdict after its content was compared."""
    if file.verdict != "good":
        return file
    if row is None or not row.digest:
        return replace(file, verdict="unhashed", detail="there is no hash to compare it with")
    if verdicts.get(file.path, "good") != "good":
        return replace(file, verdict="hash", detail="its bytes are not those of the manifest")
    return file


def _read(
    directory: Path, rows: Sequence[FileRow], show: Reporter, jobs: int, stamps: Stamps
) -> Mapping[str, str]:
    """Read files in full; return their verdicts and stamp the good ones."""
    show.start("check", sum(row.size for row in rows), len(rows))
    done = 0

    def good(row: FileRow) -> None:
        nonlocal done
        done += 1
        stamps.add([row])

    try:
        return check_files(directory, rows, jobs, lambda read: show.progress(read, done), good)
    finally:
        show.stop()
