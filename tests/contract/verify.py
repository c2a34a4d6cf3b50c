"""``python -m tests.contract.verify RELEASE CHIP [CHECKPOINT] < plan.json``.

Reads ``{"env": {…}, "argv": ["vllm", "serve", …]}``, a LaunchPlan's process, or a
whole LaunchPlan, prints one verdict a process, and exits 3 when one is refused.
"""

from __future__ import annotations

import json
import sys

from tests.contract.client import Engine, close_all


def main(arguments: list[str]) -> int:
    """Judge the plan on stdin; return the exit status."""
    release, chip, *rest = arguments
    plan = json.load(sys.stdin)
    engine = Engine(release, chip)
    verdicts = [
        engine.check(process.get("env", {}), process["argv"], rest[0] if rest else None)
        for process in plan.get("processes", [plan])
        if process["argv"][:2] == ["vllm", "serve"]
    ]
    close_all()
    for verdict in verdicts:
        print(json.dumps(verdict.to_json(), indent=1, ensure_ascii=False))
    return 0 if all(verdict.accepted for verdict in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
