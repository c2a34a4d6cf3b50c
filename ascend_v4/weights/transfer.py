"""The work in a locked directory: what is missing, the transfer of it, the final check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ascend_v4.errors import AscendV4Error, ExitCode

from . import request as settings
from .check import Stamps, check_files
from .faults import AGAIN, Fault, fetch_error
from .manifest import FileRow, Manifest, check_index, load_manifest, public_endpoint, save_manifest
from .parts import CHUNK, drop_parts, present_bytes, size_of, to_prefix
from .request import Reporter, Request, files, free_bytes, human
from .session import FetchOrder, HubSession

__all__ = ["HASHING_CLIENTS", "Transfer"]

#: Client versions that were read and tested to compare every byte they write with the
#: listed sha256 (modelscope_hub/_download.py:378-398); what others fetch is read back.
HASHING_CLIENTS = frozenset({"0.5.1"})
#: Failures that may pass: the rest of the files is asked for again while bytes arrive.
_PASSING = frozenset({"network", "proxy", "server"})


class Transfer:
    """One download in a locked directory."""

    def __init__(self, request: Request, report: Reporter, session: HubSession) -> None:
        self.request, self.report, self.session = request, report, session
        self.directory = request.directory
        self.stamps = Stamps(self.directory)

    def run(self, manifest: Manifest, listed: frozenset[str]) -> int:
        """Make the directory complete and return the number of bytes fetched for it.

        ``listed`` are all paths that the hub lists. Raises AscendV4Error.
        """
        before = load_manifest(self.directory)
        self._refuse_other(before)
        save_manifest(manifest, self.directory)
        self._forget_changed(before, manifest)
        missing = self._missing(manifest.files)
        self._preflight(missing)
        fetched = 0
        if missing:
            try:
                fetched = self._transfer(missing, manifest, listed)
                self._read_back(missing)
            except AscendV4Error as error:
                self._unpin(error, manifest)
                raise
        check_index(manifest.files, self.directory, manifest.repo, listed)
        self._final_check(manifest)
        save_manifest(manifest.done(), self.directory)
        return fetched

    def _unpin(self, error: AscendV4Error, manifest: Manifest) -> None:
        """Let the next run take a newer commit where this one can't be had whole."""
        broken = (ExitCode.WEIGHTS_CORRUPT, ExitCode.WEIGHTS_INCOMPLETE)
        if error.code in broken and manifest.commit != manifest.revision:
            save_manifest(replace(manifest, commit=None), self.directory)

    # The transfer

    def _transfer(
        self, missing: Sequence[FileRow], manifest: Manifest, listed: frozenset[str]
    ) -> int:
        """Fetch the small files, then the shards; return the bytes fetched.

        The index among the small ones tells whether all shards are listed, before
        hundreds of gigabytes are on their way.
        """
        small, shards = [r for r in missing if not r.is_shard], [r for r in missing if r.is_shard]
        have = {row.path: present_bytes(self.directory, row) for row in missing}
        request, here = self.request, sum(have.values())
        total, waiting = sum(row.size for row in missing), sum(have[row.path] for row in shards)
        self.report.start("download", total, len(missing), here)
        try:
            order = FetchOrder(manifest.repo, manifest.pinned, self.directory, request.jobs)
            self._fetch(order, small, (waiting, 0))
            check_index(manifest.files, self.directory, manifest.repo, listed)
            self._fetch(order, shards, (sum(row.size for row in small), len(small)))
        finally:
            self.report.stop()
        return total - here

    def _fetch(self, order: FetchOrder, rows: Sequence[FileRow], base: tuple[int, int]) -> None:
        """Fetch rows, the small ones by the hub's client, the large ones in ranges.

        What fails for a passing reason is asked for again, in ranges from then on, for
        as long as bytes arrive. ``base`` is the bytes and files of the other rows that
        progress counts as done.
        """
        by_client = [row for row in rows if self._for_client(row)]
        by_ranges = [row for row in rows if not self._for_client(row)]
        waiting = sum(present_bytes(self.directory, row) for row in by_ranges)
        faults = self._round(order, by_client, (base[0] + waiting, base[1]))
        done = sum(row.size for row in by_client)
        ranges = order._replace(connections=self.request.connections, limit=self.request.limit)
        after = (base[0] + done, base[1] + len(by_client))
        faults += self._round(ranges, by_ranges, after)
        grown = self._grown(rows)
        while faults and all(fault.kind in _PASSING and fault.path for fault in faults):
            failed = {fault.path for fault in faults}
            left = [row for row in rows if row.path in failed]
            here = sum(row.size for row in rows if row.path not in failed)
            self.report.status(f"going on after: {faults[0].path}: {faults[0].says()}")
            faults = self._round(ranges, left, (base[0] + here, base[1] + len(rows) - len(left)))
            if self._grown(rows) <= grown:
                break
            grown = self._grown(rows)
        if faults:
            raise fetch_error(faults, public_endpoint(self.request.endpoint))

    def _for_client(self, row: FileRow) -> bool:
        """Whether the ModelScope client fetches a file: it has no ranges and no limit."""
        request = self.request
        if request.source.hub != "modelscope" or request.limit is not None:
            return False
        return request.connections == 1 or row.size < CHUNK

    def _grown(self, rows: Sequence[FileRow]) -> int:
        return sum(present_bytes(self.directory, row) for row in rows)

    def _round(
        self, order: FetchOrder, rows: Sequence[FileRow], base: tuple[int, int]
    ) -> list[Fault]:
        """Fetch rows once, stamp what was checked while it arrived, return what failed."""
        if not rows:
            return []
        by_client, named = order.connections is None, {row.path: row for row in rows}
        if by_client:
            for row in rows:
                to_prefix(self.directory, row)
        have = {row.path: present_bytes(self.directory, row) for row in rows}
        faults = self.session.fetch(
            order,
            rows,
            have,
            lambda done, count: self.report.progress(base[0] + done, base[1] + count),
            lambda path: self.stamps.add([named[path]]),
        )
        failed = {fault.path for fault in faults}
        if by_client and self.session.hub_version in HASHING_CLIENTS and "" not in failed:
            self.stamps.add(row for row in rows if row.path not in failed)
        return faults

    def _read_back(self, rows: Sequence[FileRow]) -> None:
        """Read what the client didn't verify itself; damaged files are removed."""
        bad = self._read([row for row in rows if not self.stamps.holds(row)])
        damaged = [row.path for row in bad if (self.directory / row.path).exists()]
        for path in damaged:
            (self.directory / path).unlink()
        if damaged:
            faults = [Fault(path, "hash", None, "") for path in damaged]
            raise fetch_error(faults, public_endpoint(self.request.endpoint))

    # Before and after

    def _refuse_other(self, before: Manifest | None) -> None:
        """Refuse a directory that holds another model: the two would mix."""
        repo = self.request.source.repo
        if before is not None and before.repo != repo:
            raise AscendV4Error(
                ExitCode.USAGE,
                "other-model",
                f"{self.directory} holds {before.repo}, not {repo}",
                "choose another --dir",
            )

    def _forget_changed(self, before: Manifest | None, manifest: Manifest) -> None:
        """Drop the parts of files that the hub has changed: they are of the old bytes."""
        old = {row.path: row for row in before.files} if before else {}
        moved = before is not None and before.revision != manifest.revision
        changed = [r for r in manifest.files if r.path in old and old[r.path] != r]
        stale = changed + [r for r in manifest.files if moved and r.digest is None]
        for row in stale:
            drop_parts(self.directory, row.path)
        if changed:
            self.report.status(f"{files(len(changed))} changed on the hub since the last download")

    def _missing(self, rows: Sequence[FileRow]) -> list[FileRow]:
        """Return the files that aren't there yet; those without a stamp are read in full."""
        there = [r for r in rows if size_of(self.directory / r.path) == r.size]
        unread = [row for row in there if not self.stamps.holds(row)]
        bad = self._read(unread)
        for row in bad:
            self.report.status(f"{row.path} is damaged or another version: it is fetched again")
            (self.directory / row.path).unlink(missing_ok=True)
        whole = {row.path for row in there} - {row.path for row in bad}
        for path in whole:
            drop_parts(self.directory, path)
        return [row for row in rows if row.path not in whole]

    def _read(self, rows: Sequence[FileRow]) -> list[FileRow]:
        """Check files by reading them, stamp the good ones and return the others."""
        if not rows:
            return []
        self.report.start("check", sum(row.size for row in rows if row.digest), len(rows))
        try:
            verdicts = check_files(
                self.directory,
                rows,
                self.request.jobs,
                lambda done: self.report.progress(done, 0),
                lambda row: self.stamps.add([row]),
            )
        finally:
            self.report.stop()
        return [row for row in rows if verdicts[row.path] != "good"]

    def _preflight(self, missing: Sequence[FileRow]) -> None:
        """Refuse to start what can't end: too little room on the disk."""
        need = sum(row.size - present_bytes(self.directory, row) for row in missing)
        free, margin = free_bytes(self.directory), settings.MARGIN
        if need and need + margin > free:
            raise AscendV4Error(
                ExitCode.HOST_NOT_READY,
                "disk-full",
                f"{self.directory} has {human(free)} free, and {human(need)} are missing "
                f"(with {human(margin)} to spare)",
                "make room or choose another --dir",
            )

    def _final_check(self, manifest: Manifest) -> None:
        """Raise unless every file is there, has its size and was checked.

        The client can end well without having written anything, so its word is
        not taken for it.
        """
        wrong = [row.path for row in manifest.files if not self.stamps.holds(row)]
        if wrong:
            raise AscendV4Error(
                ExitCode.WEIGHTS_INCOMPLETE,
                "files-missing",
                f"the transfer ended, yet {files(len(wrong))} of {len(manifest.files)} are not "
                f"there or changed meanwhile, {wrong[0]} first",
                AGAIN,
            )
