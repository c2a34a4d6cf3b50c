"""Whether several nodes hold the same weights, by a fingerprint that takes a second."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["NodeAnswer", "compare", "fingerprint"]

#: Bytes taken from the front and the end of each file, and from the places between.
_TASTE = 64 << 10
_PLACES = 5
_ENDS = (".safetensors", ".json", ".model", ".txt", ".jinja", ".py")


class NodeAnswer(NamedTuple):
    """A node's fingerprint: ``same``, ``different`` from the first, or ``unreachable``.

    A node that has no weights is ``different``, with ``none`` for the fingerprint.
    """

    node: str
    verdict: str
    fingerprint: str


def fingerprint(directory: Path) -> str:
    """Return ``v1 FILES BYTES HASH`` over names, sizes and samples of a checkpoint's files.

    Five samples of 64 KiB from each file: it finds another version, a truncated or
    a sparse copy, not a single flipped bit; that takes ``verify --deep``. Raises
    AscendV4Error (weights incomplete) where there are no weights.
    """
    paths = sorted(
        path
        for path in directory.rglob("*")
        if path.is_file()
        and path.name.endswith(_ENDS)
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    if not any(path.name.endswith(".safetensors") for path in paths):
        what = "has no *.safetensors file" if directory.is_dir() else "isn't there"
        raise AscendV4Error(
            ExitCode.WEIGHTS_INCOMPLETE,
            "no-weights",
            f"{directory} {what}",
            f"ascend-v4 verify {directory}",
        )
    digest, total = hashlib.sha256(), 0
    for path in paths:
        size = path.stat().st_size
        total += size
        digest.update(f"{path.relative_to(directory).as_posix()}\0{size}\0".encode())
        with path.open("rb", buffering=0) as file:
            last = max(0, size - _TASTE)
            for place in range(_PLACES):
                file.seek(last * place // (_PLACES - 1))
                digest.update(file.read(_TASTE))
    return f"v1 {len(paths)} {total} {digest.hexdigest()[:32]}"


def compare(host: Host, directory: Path, nodes: Sequence[str]) -> list[NodeAnswer]:
    """Return this node's fingerprint and that of every other, asked for by ssh.

    The other nodes need ascend-v4 on their PATH and the weights in the same place.
    """
    own = fingerprint(directory)
    answers = [NodeAnswer("here", "same", own)]
    order = shlex.join(["ascend-v4", "verify", str(directory), "--fingerprint"])
    for node in nodes:
        done = host.run(["ssh", "-o", "BatchMode=yes", "--", node, order], timeout_s=120)
        said = done.stdout.strip()
        if done.returncode == ExitCode.WEIGHTS_INCOMPLETE:
            answers.append(NodeAnswer(node, "different", "none"))
        elif not done.ok or not said.startswith("v1 "):
            reason = (done.stderr.strip().splitlines() or ["no fingerprint"])[-1]
            answers.append(NodeAnswer(node, "unreachable", reason[:120]))
        else:
            answers.append(NodeAnswer(node, "same" if said == own else "different", said))
    return answers
