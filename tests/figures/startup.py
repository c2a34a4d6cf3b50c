"""How long commands take to start, against ``python -c "import click"``, side by side.

    python -m tests.figures.startup [--rounds 20]

Whole processes, one after the other in turn, so that a busy machine slows all alike; the
figure is the ratio of medians. Target: at most 4, aim 2.5.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BASE = [sys.executable, "-c", "import click"]
COMMANDS = {
    "import click": BASE,
    "--help": [sys.executable, "-m", "ascend_v4", "--help"],
    "env": [sys.executable, "-m", "ascend_v4", "env", "--chip", "a3"],
    "serve --dry-run": [sys.executable, "-m", "ascend_v4", "serve", "--chip", "a3", "--dry-run"],
}


def seconds(argv: list[str]) -> float:
    """Return the wall time of a whole process in seconds."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def medians(rounds: int) -> dict[str, float]:
    """Return the median seconds of each command over rounds of all of them in turn."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, argv in COMMANDS.items():
            times[name].append(seconds(argv))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    found = medians(parser.parse_args().rounds)
    base = found["import click"]
    for name, median in found.items():
        print(f"{name:18} {median * 1000:7.1f} ms  {median / base:4.2f} x")


if __name__ == "__main__":
    main()
