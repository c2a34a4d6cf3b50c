"""What each row about memory and throughput must hold: KV arithmetic, published figures."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from .schema import Sourced

__all__ = ["SIZING_TABLES"]


class KvRelease(Sourced):
    """How a range of releases turns KV memory into blocks; see the rows for the words."""

    id: str
    engine: Literal["vllm-ascend", "vllm"]
    since: str
    until: str | None = None
    layout: Literal["tuple", "slots", "widest"]
    grouping: Literal["mla-first", "packed", "ascend"]
    pad_windows: bool
    need: Literal["tuple", "pool"]
    null_block: bool = False
    in_flight: Literal["single", "concurrent"]
    v2_runner: Literal["never", "dspark", "always"]
    log: Literal["weighted", "blocks"]
    plain_alignment: list[int] = Field(default_factory=list)
    fp4_indexer_saves: bool = False


class KvCaches(Sourced):
    """Rows and blocks of a layer's caches on an engine and chip; rows are bytes."""

    id: str
    engine: Literal["vllm-ascend", "vllm"]
    chips: list[str] = Field(default_factory=list)
    block_sizes: list[int]
    rows: Literal["block-tokens", "stored-rows"]
    main_row: int
    index_row: int
    fp4_index_row: int | None = None
    window_block: int | None = None
    alignment: int = 1
    c4_state_block: int | None = None
    c128_state_block: int | None = None
    c4_state_divisor: int | None = None
    c128_state_divisor: int | None = None


class KvModel(Sourced):
    """The geometry of a model family, and its parameters by component in 10^9."""

    id: str
    title: str
    kind: Literal["v4", "gqa", "mla", "unknown"]
    layers: int | None = None
    ratios: list[Any] = Field(default_factory=list)
    hidden: int | None = None
    head_dim: int | None = None
    index_head_dim: int | None = None
    window: int | None = None
    kv_heads: int | None = None
    heads: int | None = None
    max_context: int | None = None
    active_billion: float | None = None
    total_billion: float | None = None
    bytes: int | None = None
    licence: str | None = None
    draft_layers: dict[str, int] = Field(default_factory=dict)
    parameters: dict[str, float] = Field(default_factory=dict)
    layer_billion: float | None = None
    o_groups: int | None = None


class Datapoint(Sourced):
    """One published observation: a startup log's figures, a weight size or a start that failed.

    Memory is GiB a device, ``formula_version`` the release whose arithmetic it followed.
    """

    id: str
    model: Literal["flash", "pro"]
    checkpoint: str
    engine: Literal["vllm-ascend", "vllm", "file"]
    formula_version: str | None = None
    versions: list[str] = Field(default_factory=list)
    chip: str | None = None
    hardware: str | None = None
    devices: int | None = None
    tp: int | None = None
    dp: int | None = None
    pp: int = 1
    ep: bool | None = None
    context: int | None = None
    utilization: float | None = None
    block_size: int | None = None
    batched_tokens: int | None = None
    spec: Literal["none", "mtp", "dspark"] = "none"
    eager: bool = False
    weights_gib: float | None = None
    available_gib: float | None = None
    available_bytes: int | None = None
    tokens: int | None = None
    concurrency: float | None = None
    need_gib: float | None = None
    longest: int | None = None
    outcome: Literal["starts", "refused", "unknown"] = "unknown"
    compare: list[str] = Field(default_factory=list)
    quality: Literal["P", "I", "D"] | None = None
    date: str | None = None
    note: str | None = None


class Anchor(Sourced):
    """A published measurement of a server that ran: what throughput may be read from."""

    id: str
    model: Literal["flash", "pro"]
    checkpoint: str | None = None
    engine: Literal["vllm-ascend", "vllm"]
    versions: list[str] = Field(default_factory=list)
    chip: str
    devices: int
    topology: Literal["single-node", "pd"] = "single-node"
    prefill_nodes: int | None = None
    decode_nodes: int | None = None
    prefix_percent: int = 0
    tpot_target_ms: int | None = None
    request_rate: float | None = None
    tp: int | None = None
    dp: int | None = None
    spec: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    concurrency: int | None = None
    output_tokens_s: float | None = None
    total_tokens_s: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    note: str | None = None


SIZING_TABLES: dict[str, type[BaseModel]] = {
    "kv_releases": KvRelease,
    "kv_caches": KvCaches,
    "kv_models": KvModel,
    "datapoints": Datapoint,
    "anchors": Anchor,
}
