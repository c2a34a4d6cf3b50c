"""The figures of ``plan``: oracle grid, datapoints, run time.

    python -m tests.figures.plan [--grid 40] [--releases 0.32.0:h200 …] [--rounds 20]

The grid needs the CPU engine and the package index; ``--grid 0`` leaves it out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from tests.sizing.accuracy import table

ALL = (
    *("0.32.0:h200", "0.28.0:h200", "0.26.0:h200", "0.22.1:h200"),
    *("0.23.0:a3", "0.26.0rc1:a3", "0.30.0rc2:a3", "0.30.0rc2:a5"),
)
PLAN = [sys.executable, "-m", "ascend_v4", "plan", "--hardware", "1xa3", "--json"]
BASE = [sys.executable, "-c", "import click"]


def seconds(argv: list[str]) -> float:
    """Return the wall time of a whole process in seconds."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_time(rounds: int) -> str:
    """Return the run time of ``plan`` against importing click, in turn."""
    pairs = [(seconds(BASE), seconds(PLAN)) for _ in range(rounds)]
    base, plan = (statistics.median(values) for values in zip(*pairs, strict=True))
    return f"plan {plan:.3f} s, import click {base:.3f} s: {plan / base:.2f}x"


def grid(releases: list[str], count: int) -> str:
    """Return how many configurations were compared and how many differed."""
    from tests.contract.kv_oracle import mismatches

    compared = wrong = 0
    for item in releases:
        release, _, chip = item.partition(":")
        wrong += len(mismatches(release, chip, count, os.environ))
        compared += count
    return f"oracle: {compared} configurations of {len(releases)} releases, {wrong} mismatches"


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=int, default=40)
    parser.add_argument("--releases", nargs="*", default=list(ALL))
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print(table())
    print(run_time(options.rounds))
    if options.grid:
        print(grid(options.releases, options.grid))


if __name__ == "__main__":
    main()
