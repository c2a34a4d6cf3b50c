"""Throughput of diagnose against ``grep -F -f``, precision and recall, weak signatures.

``python -m tests.figures.diagnose [GIGABYTES]`` writes a synthetic log (2 GB unless said)
to a temporary directory, of vLLM, access-log, plog and Kubernetes lines with the
catalog's own failures at its end, reads it both ways and prints one line a figure.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ascend_v4.catalog.diagnosis import diagnosis_catalog
from ascend_v4.diagnose import diagnose_lines
from ascend_v4.diagnose.api import prepare

MEGA = 1_000_000
#: VmHWM, because ru_maxrss of a child begins with the size of its parent.
CHILD = (
    "import sys; from ascend_v4.cli import main; code = main(sys.argv[1:]);"
    "peak = [l for l in open('/proc/self/status') if l.startswith('VmHWM')][0].split()[1];"
    "sys.stderr.write(peak); sys.exit(code)"
)


def filler(size: int) -> bytes:
    """Return about ``size`` bytes of ordinary lines, one error line in 5000."""
    random.seed(7)
    lines, written = [], 0
    while written < size:
        n, clock = random.randint(0, 99999), f"10:{random.randint(0, 59):02d}:00"
        kind = random.random()
        if kind < 0.5:
            rates = f"prompt throughput: {n / 7:.1f} tokens/s, Avg generation {n / 9:.1f} tokens/s"
            load = f"Running: {n % 32} reqs, Waiting: 0 reqs, GPU KV cache usage: {n % 100}.1%"
            head = f"(APIServer pid=12) INFO 07-21 {clock} [loggers.py:257] Engine 000"
            line = f"{head}: Avg {rates}, {load}\n"
        elif kind < 0.8:
            request = '"POST /v1/chat/completions HTTP/1.1" 200 OK'
            line = f"(APIServer pid=12) INFO:     10.0.0.{n % 255}:{n} - {request}\n"
        elif kind < 0.9998:
            line = (
                f"2026-07-21T{clock}.1Z stdout F [INFO] RUNTIME(1234,python):2026-07-21-{clock}"
                f".123.456 [stream.cc:123] SubmitTask: stream_id={n % 99}, task_id={n} submit ok\n"
            )
        else:
            error = f"[serving.py:9] ValueError: bad prompt {n}"
            line = f"(Worker_TP{n % 8} pid=9) ERROR 07-21 {clock} {error}\n"
        lines.append(line)
        written += len(line)
    return "".join(lines).encode()


def synthetic(path: Path, size: int) -> None:
    """Write a log of ``size`` bytes that ends in a failure."""
    block = filler(64 * MEGA)
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(block)
        for name in ("npu-oom-alloc", "engine-init-failed", "engine-dead"):
            row = next(r for r in diagnosis_catalog().table("signatures") if r["id"] == name)
            file.write("\n".join([*row["example"], ""]).encode())


def grep(path: Path, literals: list[str], directory: Path) -> float:
    """Return the seconds that ``grep -F -f`` takes for the same literals."""
    words = directory / "literals"
    words.write_text("\n".join(literals) + "\n")
    begun = time.monotonic()
    subprocess.run(
        ["grep", "-F", "-c", "-f", str(words), str(path)],
        env={**os.environ, "LC_ALL": "C"},
        # Not /dev/null: GNU grep stops at the first match when it sees that.
        stdout=subprocess.PIPE,
        check=False,
    )
    return time.monotonic() - begun


def diagnose(path: Path) -> tuple[float, str, int]:
    """Return the whole command's seconds, start included, the cause, and its peak KiB."""
    argv = [sys.executable, "-c", CHILD, "diagnose", "--json", str(path)]
    begun = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    took = time.monotonic() - begun
    return took, json.loads(done.stdout)["cause"]["id"], int(done.stderr)


def precision_and_recall() -> tuple[float, float]:
    """Return both over the catalog's own logs: is the row named, and nothing else as cause."""
    right = wrong = missed = 0
    for row in diagnosis_catalog().table("signatures"):
        found = diagnose_lines(row["example"])
        ids = [m.id for m in (found.cause, *found.also, *found.secondary, *found.warnings) if m]
        right += row["id"] in ids
        missed += row["id"] not in ids
        wrong += sum(name != row["id"] for name in ids)
        near = diagnose_lines(row["near_miss"])
        wrong += any(m.id == row["id"] for m in (near.cause, *near.also) if m)
    return right / (right + wrong), right / (right + missed)


def main() -> None:
    """Print the figures."""
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 2) * 1000 * MEGA)
    literals = prepare(None, None, None).keys
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "server.log"
        synthetic(path, size)
        ours, theirs = [], []
        for _ in range(2):
            theirs.append(grep(path, literals, Path(name)))
            took, cause, peak = diagnose(path)
            ours.append(took)
        rate, other = size / MEGA / min(ours), size / MEGA / min(theirs)
        print(f"log {size / MEGA:.0f} MB, {len(literals)} literals, cause {cause}")
        print(f"diagnose {rate:.0f} MB/s, grep -F -f {other:.0f} MB/s, ratio {other / rate:.2f}")
        print(f"peak memory {peak / 1024:.0f} MiB")
    precision, recall = precision_and_recall()
    print(f"precision {precision:.3f}, recall {recall:.3f} over the catalog's own logs")
    rows = diagnosis_catalog().table("signatures")
    weak = [row["id"] for row in rows if row.get("specificity") == "weak"]
    print(f"{len(rows)} signatures, {len(weak)} too weak to stand alone: {', '.join(weak)}")


if __name__ == "__main__":
    main()
