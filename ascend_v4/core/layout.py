"""Keep a layout whole when only a part of it was asked for.

Someone who asks for ``--tensor-parallel-size 8`` on 16 devices means two replicas, not
32 devices; someone who asks for 64 requests at once over four replicas means 16 each.
"""

from __future__ import annotations

from typing import Any

from .request import LaunchRequest

__all__ = ["fit_layout"]


def fit_layout(facts: dict[str, Any], request: LaunchRequest, origins: dict[str, str]) -> None:
    """Complete tensor and data parallel sizes and requests for each replica, in place."""
    devices = int(facts["devices"])
    tp_asked, dp_asked = request.tensor_parallel_size, request.data_parallel_size
    if facts["profile"] != "cpu" and not (tp_asked and dp_asked):
        tp, dp = int(facts["tensor_parallel_size"]), int(facts["data_parallel_size"])
        if tp_asked:
            facts["data_parallel_size"] = max(1, devices // tp_asked)
        elif dp_asked:
            share = max(1, devices // dp_asked)
            facts["tensor_parallel_size"] = min(share, facts.get("o_groups") or share)
        elif tp * dp != devices and request.devices:
            facts["tensor_parallel_size"] = min(tp, devices)
            facts["data_parallel_size"] = max(1, devices // facts["tensor_parallel_size"])
        for name, old in (("tensor_parallel_size", tp), ("data_parallel_size", dp)):
            if facts[name] != old and name not in request.asked():
                origins[name] = "rule:layout"
    if request.concurrency and not request.max_num_seqs:
        replicas = int(facts["data_parallel_size"])
        facts["max_num_seqs"] = -(-request.concurrency // replicas)
        origins["max_num_seqs"] = "rule:concurrency"
