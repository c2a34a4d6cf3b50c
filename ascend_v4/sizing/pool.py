"""The block pool: bytes of a block, blocks of a request, and what the log prints.

Integer for integer the engines' own arithmetic; the contract tests hold it to their
code. Memory is bytes, lengths are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .caches import Cache, Layout, model_caches
from .groups import Group, group_caches, longest_list

__all__ = ["GIB", "Pool", "PoolResult", "in_flight_tokens", "pipeline_ranks", "pool_of"]

GIB = 1 << 30


@dataclass(frozen=True)
class PoolResult:
    """What a memory and a context length make of a pool.

    ``max_concurrency`` is num_blocks over blocks_per_request; ``log_max_concurrency`` and
    ``log_kv_tokens`` are what the release prints. ``starts`` is its start-up check.
    """

    available: int
    bytes_per_block: int
    num_blocks: int
    in_flight_tokens: int
    blocks_per_request: int
    request_bytes: int
    startup_need: int
    starts: bool
    max_concurrency: float
    log_max_concurrency: float
    log_kv_tokens: int


def in_flight_tokens(
    release: Mapping[str, Any],
    max_num_batched_tokens: int,
    asynchronous: bool = True,
    pipeline: int = 1,
    spec: str = "none",
    v2_runner: bool | None = None,
) -> int:
    """Return the tokens that may be scheduled and not yet settled.

    ``v2_runner`` overrides the release's choice, as VLLM_USE_V2_MODEL_RUNNER does.
    Source: vllm 0.32.0, vllm/config/vllm.py:577-598.
    """
    if release["in_flight"] == "single":
        return max_num_batched_tokens
    if v2_runner is None:
        v2_runner = release["v2_runner"] == "always" or release["v2_runner"] == spec
    batches = pipeline
    if asynchronous and v2_runner:
        batches = pipeline + 1
    elif asynchronous and pipeline <= 1:
        batches = 2
    return batches * max_num_batched_tokens


def pipeline_ranks(layers: int, pipeline: int) -> list[range]:
    """Return the layers of each pipeline rank, the draft layers not counted.

    Source: vllm 0.32.0, vllm/distributed/utils.py (get_pp_indices).
    """
    sizes = [layers // pipeline] * pipeline
    for i in range(2, layers % pipeline + 2):
        sizes[-i] += 1
    starts = [sum(sizes[:rank]) for rank in range(pipeline)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


@dataclass(frozen=True)
class Pool:
    """The groups of a model under a release, and their part on each pipeline rank."""

    release: Mapping[str, Any]
    groups: tuple[Group, ...]
    ranks: tuple[tuple[Group, ...], ...]

    def blocks(self, context: int, in_flight: int) -> int:
        """Return the blocks that one request of ``context`` tokens may hold."""
        return sum(group_blocks(group, context, in_flight) for group in self.groups)

    def block_bytes(self, rank: int = 0) -> int:
        """Return the bytes of one block on a pipeline rank."""
        here = self.ranks[rank]
        if self.release["layout"] == "widest":
            return max(sum(cache.page for cache in group) for group in here)
        if self.release["layout"] == "slots":
            pages = {cache.page for group in here for cache in group}
            return sum(
                page * max(sum(c.page == page for c in group) for group in here) for page in pages
            )
        return self.tuple_bytes(rank) * self.tuples(rank)

    def tuple_bytes(self, rank: int = 0) -> int:
        """Return the bytes of one page of each size of the first group."""
        # A rank without a layer of the group still gets the whole group's description.
        first = self.ranks[rank][0] or self.groups[0]
        return sum({cache.page for cache in first})

    def tuples(self, rank: int = 0) -> int:
        """Return the tuples of a block; vllm-ascend gives each draft layer one of its own."""
        here = self.ranks[rank]
        if self.release["grouping"] != "ascend":
            return max(longest_list(group) for group in here)
        plain = [[cache for cache in group if not cache.draft] for group in here]
        drafts = sum(cache.draft for group in here for cache in group)
        return max(longest_list(group) for group in plain) + drafts

    def need(self, context: int, in_flight: int, rank: int = 0) -> int:
        """Return the bytes that the start-up check asks for one request."""
        blocks = self.blocks(context, in_flight)
        if self.release["need"] == "pool":
            return self.block_bytes(rank) * blocks
        described = [
            here or whole for here, whole in zip(self.ranks[rank], self.groups, strict=True)
        ]
        return self.tuple_bytes(rank) * max(longest_list(g) for g in described) * blocks

    def budget(self, available: int, rank: int = 0) -> int:
        """Return what the start-up check compares with: from 0.29 on one block less."""
        return available - (self.block_bytes(rank) if self.release.get("null_block") else 0)

    def starts(self, available: int, context: int, in_flight: int) -> bool:
        """Whether every rank passes the start-up check; ``available`` is bytes of each rank."""
        return all(
            0 < self.budget(available, rank) >= self.need(context, in_flight, rank)
            for rank in range(len(self.ranks))
        )

    def num_blocks(self, available: int) -> int:
        """Return the blocks that every rank can hold."""
        return min(max(0, available // self.block_bytes(r)) for r in range(len(self.ranks)))

    def log_blocks(self, context: int, in_flight: int) -> int:
        """Return the blocks of one request as the printed concurrency counts them."""
        if self.release["log"] == "blocks":
            return self.blocks(context, in_flight)
        # Up to 0.26 a narrow group weighs by its own bytes, although it takes whole blocks.
        described = [here or whole for here, whole in zip(self.ranks[0], self.groups, strict=True)]
        pages = [sum(cache.page for cache in group) for group in described]
        total = sum(
            group_blocks(group, context, in_flight) * page
            for group, page in zip(self.groups, pages, strict=True)
        )
        return -(-total // pages[0])

    def result(self, available: int, context: int, in_flight: int) -> PoolResult:
        """Return the whole reckoning for ``available`` bytes a device."""
        blocks, num = self.blocks(context, in_flight), self.num_blocks(available)
        printed = num / self.log_blocks(context, in_flight)
        wide = max(self.block_bytes(rank) for rank in range(len(self.ranks)))
        needs = [self.need(context, in_flight, rank) for rank in range(len(self.ranks))]
        return PoolResult(
            available=available,
            bytes_per_block=wide,
            num_blocks=num,
            in_flight_tokens=in_flight,
            blocks_per_request=blocks,
            request_bytes=blocks * wide,
            startup_need=max(needs),
            starts=self.starts(available, context, in_flight),
            max_concurrency=num / blocks,
            log_max_concurrency=printed,
            log_kv_tokens=int(printed * context),
        )

    def longest_context(self, available: int, in_flight: int, limit: int) -> int:
        """Return the longest context up to ``limit`` that one request can have; 0 if none."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.starts(available, middle, in_flight):
                low = middle
            else:
                high = middle - 1
        return low


def group_blocks(group: Sequence[Cache], context: int, in_flight: int) -> int:
    """Return the blocks of one group that a request of ``context`` tokens may hold.

    Source: vllm 0.32.0, vllm/v1/kv_cache_interface.py:859-895.
    """
    cache = group[0]
    if not cache.window:
        return -(-context // cache.covers)
    return -(-min(cache.window - 1 + in_flight, context) // cache.block) + 1


def pool_of(
    model: Mapping[str, Any], layout: Layout, spec: str = "none", pipeline: int = 1
) -> Pool:
    """Return the pool of a model; the draft layers live on the last pipeline rank.

    Raises GroupingError where the engine's grouping would stop.
    """
    caches = model_caches(model, layout, spec)
    groups = group_caches(caches, layout.release)
    spans = pipeline_ranks(int(model["layers"]), pipeline)
    ranks = []
    for number, span in enumerate(spans):
        last = number == pipeline - 1
        ranks.append(
            tuple([c for c in group if c.layer in span or (c.draft and last)] for group in groups)
        )
    return Pool(layout.release, tuple(groups), tuple(ranks))
