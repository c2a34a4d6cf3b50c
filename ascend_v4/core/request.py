"""What the user asked for: the shared launch options, and where each value came from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["OPTION_NAMES", "LaunchRequest"]


@dataclass(frozen=True)
class LaunchRequest:
    """The shared launch options; None means not asked for.

    ``context`` and ``max_num_batched_tokens`` are tokens, ``concurrency`` requests over
    all replicas, ``max_num_seqs`` requests for each replica, ``devices`` logical devices
    (dies on A3), ``gpu_memory_utilization`` a share from 0 to 1. ``image`` is an operating
    system, ``ubuntu`` or ``openeuler``, for the official image with it, or an image's name.
    ``extra`` holds the arguments after ``--``, ``env`` variables of the user's own for the
    server, which go over those of the plan; ``drain_s`` is in seconds. ``origins`` tells
    flag, variable, file or host by option.
    """

    profile: str | None = None
    chip: str | None = None
    devices: int | None = None
    nodes: int | None = None
    engine: str | None = None
    engine_version: str | None = None
    image: str | None = None
    model: str | None = None
    model_dir: str | None = None
    workload: str | None = None
    context: int | None = None
    concurrency: int | None = None
    spec: str | None = None
    prefix_caching: bool | None = None
    fused_mc2: bool | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    gpu_memory_utilization: float | None = None
    served_model_name: str | None = None
    host: str | None = None
    port: int | None = None
    api_key_file: str | None = None
    extra: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    allow_unvalidated: bool = False
    ready_check: str = "generate"
    drain_s: int | None = None
    origins: dict[str, str] = field(default_factory=dict)

    def asked(self) -> dict[str, Any]:
        """Return the options that were asked for, by name."""
        named = {name: getattr(self, name) for name in OPTION_NAMES}
        return {name: value for name, value in named.items() if value is not None}


OPTION_NAMES = tuple(
    f.name
    for f in fields(LaunchRequest)
    if f.name not in ("extra", "env", "allow_unvalidated", "ready_check", "drain_s", "origins")
)
