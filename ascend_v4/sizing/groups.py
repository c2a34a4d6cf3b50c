"""Which caches share block ids: the engines' grouping, step by step.

All caches draw block ids from one pool, and a group is a set of caches that uses the
same ids. Three algorithms exist: upstream's up to 0.28 (``mla-first``), upstream's
from 0.29 (``packed``) and vllm-ascend's (``ascend``); see the ``kv_releases`` table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .caches import Cache

__all__ = ["Group", "GroupingError", "group_caches", "longest_list"]

Group = list[Cache]


class GroupingError(ValueError):
    """The engine's own grouping refuses such caches; the text says which check fails."""


def longest_list(group: Iterable[Cache]) -> int:
    """Return how many caches of a group share the commonest page size."""
    return max(Counter(cache.page for cache in group).values(), default=0)


def chunk_size(counts: Sequence[int], lower_bound: int) -> int:
    """Return the size from ``lower_bound`` on that pads the counts least, the larger of equals.

    Source: vllm 0.32.0, vllm/v1/core/kv_cache_utils.py:1825 (_approximate_gcd).
    """
    sizes = range(max(1, lower_bound), max(counts) + 1)
    return min(sizes, key=lambda d: (sum(-x % d for x in counts), -d), default=lower_bound)


def split(group: Group, chunk: int) -> list[Group]:
    """Return a group dealt out in tuples of one cache of each page size, ``chunk`` at most.

    Raises GroupingError where the page sizes don't have equally many caches.
    """
    by_page: dict[int, list[Cache]] = {}
    for cache in group:
        by_page.setdefault(cache.page, []).append(cache)
    counts = {len(caches) for caches in by_page.values()}
    if len(counts) != 1:
        raise GroupingError("page sizes of one group have different numbers of layers")
    parts = -(-counts.pop() // chunk)
    tuples = list(zip(*by_page.values(), strict=True))
    return [[cache for item in tuples[i::parts] for cache in item] for i in range(parts)]


def bucket(caches: Iterable[Cache], ascend: bool) -> tuple[list[Group], list[Group]]:
    """Return the full caches and the windowed ones by what the engine groups them on."""
    full: dict[Any, Group] = {}
    windowed: dict[Any, Group] = {}
    for cache in caches:
        if not cache.window:
            full.setdefault(cache.block, []).append(cache)
        else:
            key = cache.block if ascend else (cache.block, cache.window)
            windowed.setdefault(key, []).append(cache)
    return [full[block] for block in sorted(full)], list(windowed.values())


def padded(group: Group, pages: Sequence[int]) -> Group:
    """Return the caches with pages raised to the next larger full page.

    Raises GroupingError where no full page is as large.
    """
    if max(cache.page for cache in group) > max(pages):
        raise GroupingError("a window's page is larger than every full page")
    return [c._replace(page=min(page for page in pages if page >= c.page)) for c in group]


def group_caches(caches: Sequence[Cache], release: Mapping[str, Any]) -> list[Group]:
    """Return the groups of a whole model under a release's algorithm.

    Raises GroupingError where the engine itself would stop.
    """
    grouping = release["grouping"]
    full, windowed = bucket(caches, grouping == "ascend")
    if grouping == "packed":
        return packed_groups([*full, *windowed])
    if release.get("pad_windows"):
        pages = sorted({cache.page for cache in full[0]})
        raised = [padded(group, pages) for group in windowed]
    else:
        raised = windowed
    # The chunk is chosen before the pages are raised, so equal pages count once.
    counts = [longest_list(group) for group in (*full, *windowed)]
    chunk = chunk_size(counts, counts[0])
    return [*full, *(part for group in raised for part in split(group, chunk))]


def packed_groups(buckets: list[Group]) -> list[Group]:
    """Return the groups of vLLM 0.29 and later.

    Source: vllm 0.32.0, vllm/v1/core/kv_cache_utils.py:1860 (_get_packed_kv_cache_groups).
    """
    counts = [Counter(cache.page for cache in group) for group in buckets]
    balanced = [len(set(count.values())) == 1 for count in counts]
    floor = max(
        (max(c.values()) for c, even in zip(counts, balanced, strict=True) if even and len(c) > 1),
        default=0,
    )
    if not floor:
        return buckets
    even_counts = [max(c.values()) for c, even in zip(counts, balanced, strict=True) if even]
    chunk = chunk_size(even_counts, floor)
    groups: list[Group] = []
    for group, even in zip(buckets, balanced, strict=True):
        whole = not even or longest_list(group) <= chunk
        groups += [group] if whole else split(group, chunk)
    return groups
