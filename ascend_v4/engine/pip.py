"""pip, run inside one virtual environment; its failures become the product's errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Completed, Host

__all__ = ["Pip", "requirement_blocks"]

INSTALL_TIMEOUT_S = 3600.0
QUIET = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")


def requirement_blocks(text: str) -> dict[str, str]:
    """Split a hashed requirements file into ``distribution -> its lines``."""
    blocks: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("#") or not line.strip():
            continue
        if not line[0].isspace():
            name = line.split("==", 1)[0]
            blocks[name] = ""
        blocks[name] += line
    return blocks


def _last_error(done: Completed) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no output"])[0].removeprefix("ERROR:").strip()


@dataclass(frozen=True)
class Pip:
    """The pip of the environment in ``directory``. It never installs what nobody named."""

    host: Host
    directory: Path

    def _run(self, words: Sequence[str], timeout_s: float) -> Completed:
        # -I: an inherited PYTHONPATH or PYTHONHOME must not leak into the environment.
        python = str(self.directory / "bin" / "python")
        return self.host.run([python, "-I", "-m", "pip", "install", *QUIET, *words], timeout_s)

    def offers(self, requirement: str, options: Sequence[str] = ()) -> bool:
        """Whether ``requirement`` resolves with the configured indexes and ``options``."""
        words = [
            "--dry-run",
            "--quiet",
            "--no-deps",
            "--ignore-installed",
            "--only-binary",
            ":all:",
        ]
        return self._run([*words, *options, requirement], INSTALL_TIMEOUT_S).ok

    def install_locked(self, blocks: Sequence[str], options: Sequence[str] = ()) -> None:
        """Install exactly the hashed requirements in ``blocks``, with no dependencies.

        Raises:
            AscendV4Error: ``hash-mismatch`` or ``download-failed``.
        """
        listing = self.directory / "ascend-v4-requirements.txt"
        listing.write_text("".join(blocks))
        words = ["--no-deps", "--require-hashes", "--only-binary", ":all:", *options]
        self._check(self._run([*words, "-r", str(listing)], INSTALL_TIMEOUT_S))
        listing.unlink()

    def install_unlocked(self, requirement: str, options: Sequence[str] = ()) -> None:
        """Install one requirement, wheel or URL that no hash is known for, without dependencies.

        Raises:
            AscendV4Error: ``download-failed``.
        """
        words = ["--no-deps", "--force-reinstall", *options, requirement]
        self._check(self._run(words, INSTALL_TIMEOUT_S))

    def _check(self, done: Completed) -> None:
        if done.ok:
            return
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise AscendV4Error(
                ExitCode.REFUSED,
                "hash-mismatch",
                "a downloaded package is not the one this release was made with: its SHA-256 "
                "differs; nothing of it was installed",
                "check the configured package index (pip config list), then install again",
            )
        raise AscendV4Error(
            ExitCode.UNREACHABLE,
            "download-failed",
            f"pip could not install the CPU engine: {_last_error(done)}",
            "check the network and the package index (pip config list), then run "
            "'ascend-v4 engine install --profile cpu' again; finished downloads are kept",
        )
