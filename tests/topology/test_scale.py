"""A thousand nodes are read, planned and checked in seconds."""

from __future__ import annotations

from ascend_v4.catalog.load import catalog
from tests.figures.topology import measured


def test_a_thousand_nodes_are_checked_in_seconds() -> None:
    catalog()
    small, large = measured(10), measured(1000)
    assert (large.processes, large.errors) == (500 * 4 + 500 * 16 + 1, 0)
    # Ten server processes a node; on an idle machine this takes about 5 s of processor time.
    assert large.read_s + large.check_s < 60
    assert large.peak_mib - small.peak_mib < 300
