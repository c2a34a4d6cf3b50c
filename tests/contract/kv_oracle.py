"""Feeds one grid of cases to our arithmetic and to the engine's own code.

A case is a model's layers, a memory, a context and the options that count; the answer
is what ``get_kv_cache_configs`` makes of it. ``python -m tests.contract.kv_oracle
RELEASE CHIP N`` prints the comparison.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ascend_v4.catalog.load import catalog
from ascend_v4.sizing.caches import Layout, compress_ratios
from ascend_v4.sizing.facts import kv_caches, kv_model, kv_release
from ascend_v4.sizing.groups import GroupingError
from ascend_v4.sizing.pool import in_flight_tokens, pool_of
from tests.contract.client import Engine
from tests.contract.overlays import engine_python

RUNNER = Path(__file__).with_name("kv_oracle_runner.py")


@dataclass(frozen=True)
class Case:
    """One configuration; ``available`` is bytes of each device, lengths are tokens."""

    family: str
    spec: str
    block_size: int
    context: int
    max_num_batched_tokens: int
    available: int
    pipeline: int = 1
    tensor: int = 1
    asynchronous: bool = True
    v2_runner: bool = False
    kv_type: str = "packed"
    fp4_indexer: bool = False


def grid(release: str, chip: str, count: int, seed: int = 6) -> list[Case]:
    """Return ``count`` cases for a release, the same ones each time."""
    ascend = chip[0] == "a"
    rows = kv_release("vllm-ascend" if ascend else "vllm", release)
    dice = random.Random(f"{seed}/{release}/{chip}")
    blocks = [128, 64, 32] if ascend else [256]
    if ascend and release == "0.20.2rc1":
        blocks = [128]  # its table of block sizes came with 0.21.0rc1
    cases = []
    for _ in range(count):
        kv_type = (
            "packed"
            if ascend or rows["since"] == "0.20.0"
            else dice.choice(["packed"] * 4 + ["fp8", "bf16"])
        )
        cases.append(
            Case(
                family=dice.choice(["flash", "pro"]),
                spec=dice.choice(["none", "mtp", "dspark"]),
                block_size=dice.choice(blocks),
                context=dice.choice(
                    [
                        1,
                        17,
                        4096,
                        30000,
                        131072,
                        393216,
                        800000,
                        1 << 20,
                        dice.randrange(1, 1 << 20),
                    ]
                ),
                max_num_batched_tokens=dice.choice(
                    [1, 512, 2048, 4096, 8192, 10240, 16384, dice.randrange(1, 32769)]
                ),
                available=dice.choice(
                    [dice.randrange(1 << 20, 1 << 38), dice.randrange(1 << 30, 1 << 36), 1 << 35, 1]
                ),
                pipeline=dice.choice([1, 1, 1, 2, 3, 4, 8]),
                tensor=dice.choice([1, 2, 4, 8]),
                asynchronous=dice.random() < 0.7,
                v2_runner=dice.random() < 0.4,
                kv_type=kv_type,
                fp4_indexer=not ascend and kv_type == "packed" and dice.random() < 0.3,
            )
        )
    return cases


def ours(release: str, chip: str, case: Case) -> dict[str, Any]:
    """Return our answer to a case, in the words of the runner."""
    engine = "vllm-ascend" if chip[0] == "a" else "vllm"
    row = kv_release(engine, release)
    layout = Layout(kv_caches(engine, chip), row, case.block_size, case.kv_type, case.fp4_indexer)
    try:
        pool = pool_of(kv_model(case.family), layout, case.spec, case.pipeline)
    except GroupingError as error:
        return {"error": str(error)}
    flying = in_flight_tokens(
        row,
        case.max_num_batched_tokens,
        case.asynchronous,
        case.pipeline,
        case.spec,
        case.v2_runner,
    )
    result = pool.result(case.available, case.context, flying)
    said: dict[str, Any] = {
        "starts": result.starts,
        "need": result.startup_need,
        "per_request": result.blocks_per_request,
    }
    if result.starts:
        said |= {
            "num_blocks": result.num_blocks,
            "log_max_concurrency": result.log_max_concurrency,
            "log_kv_tokens": result.log_kv_tokens,
            "groups": sorted(len(group) for group in pool.ranks[0]),
        }
    return said


def theirs(
    release: str, chip: str, cases: Sequence[Case], env: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the engine's answers. Raises RuntimeError with its last words where it stops."""
    engine = Engine(release, chip, env)
    drafts = {"none": 0, "mtp": 1, "dspark": 3}
    asked = [
        {
            **vars(case),
            "ratios": compress_ratios(kv_model(case.family)),
            "drafts": drafts[case.spec],
        }
        for case in cases
    ]
    with tempfile.TemporaryDirectory() as work:
        said = Path(work) / "answers.json"
        child = subprocess.run(
            [str(engine_python(env)), str(RUNNER), str(said)],
            env=engine._base(),
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode or not said.exists():
            raise RuntimeError(f"{release} on {chip}: {child.stderr[-2000:]}")
        answers: list[dict[str, Any]] = json.loads(said.read_text(encoding="utf-8"))
    for answer in answers:
        if "groups" in answer:
            answer["groups"] = sorted(answer["groups"])
    return answers


def mismatches(release: str, chip: str, count: int, env: Mapping[str, str]) -> list[str]:
    """Return a line for each case of the grid that differs in any figure."""
    cases = grid(release, chip, count)
    wrong = []
    for case, said in zip(cases, theirs(release, chip, cases, env), strict=True):
        own = ours(release, chip, case)
        if ("error" in own) != ("error" in said) or ("error" not in said and own != said):
            wrong.append(f"{release} {chip} {case}\n  engine {said}\n  ours   {own}")
    return wrong


def main(arguments: list[str]) -> int:
    """Compare one release; return 1 where anything differs."""
    release, chip, count = arguments
    wrong = mismatches(release, chip, int(count), os.environ)
    print("\n".join(wrong[:5]))
    own = [ours(release, chip, case) for case in grid(release, chip, int(count))]
    refused, stopped = (
        sum(not said.get("starts") for said in own),
        sum("error" in said for said in own),
    )
    print(
        f"{release} {chip}: {count} compared ({refused} don't start, {stopped} stop the grouping), "
        f"{len(wrong)} mismatches"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    catalog()
    sys.exit(main(sys.argv[1:]))
