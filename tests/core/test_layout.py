"""Part of a layout asked for: the rest follows."""

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest


def sizes(**options):
    options.setdefault("chip", "a3")
    compiled = compile_plan(LaunchRequest(**options, allow_unvalidated=True), catalog())
    facts = compiled.facts
    return (
        facts["tensor_parallel_size"],
        facts["data_parallel_size"],
        facts["max_num_seqs"],
        compiled.plan.origins["data_parallel_size"],
    )


@pytest.mark.parametrize(
    "options,expected",
    [
        ({}, (4, 4, 64, "rule:a3-dp")),
        ({"tensor_parallel_size": 8}, (8, 2, 64, "rule:layout")),
        ({"data_parallel_size": 2}, (8, 2, 64, "flag")),
        ({"data_parallel_size": 1}, (8, 1, 64, "flag")),
        ({"devices": 8}, (4, 2, 64, "rule:layout")),
        ({"concurrency": 40}, (4, 4, 10, "rule:a3-dp")),
        ({"concurrency": 40, "max_num_seqs": 7}, (4, 4, 7, "rule:a3-dp")),
        ({"chip": "h200", "devices": 4}, (1, 4, 256, "rule:cuda-dp4-dp")),
        ({"chip": "h200", "devices": 4, "workload": "latency"}, (4, 1, 64, "rule:cuda-dp")),
    ],
)
def test_layout(options, expected):
    assert sizes(**options) == expected
