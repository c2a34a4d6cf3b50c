"""A thousand nodes are read, planned and checked in seconds."""

from __future__ import annotations

import time

from ascend_v4.catalog.load import catalog
from ascend_v4.topology.place import PortBook
from tests.figures.topology import measured


def test_a_thousand_nodes_are_checked_in_seconds() -> None:
    catalog()
    small, large = measured(10), measured(1000)
    assert (large.processes, large.errors) == (500 * 4 + 500 * 16 + 1, 0)
    # Ten server processes a node; on an idle machine this takes about 5 s of processor time.
    assert large.read_s + large.check_s < 60
    assert large.peak_mib - small.peak_mib < 300


def test_ports_are_handed_out_in_time_that_grows_with_their_number() -> None:
    book, began = PortBook(), time.process_time()
    assert [book.take(["a"], 7100) for _ in range(20_000)] == list(range(7100, 27_100))
    assert time.process_time() - began < 5
    assert book.take(["a"], 7099, 2) == 27_100 and book.take(["a"], 7100) == 27_102
    assert book.take(["b", "a"], 7100, 1, 100) == 27_200
