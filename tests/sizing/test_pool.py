"""The KV pool against published figures and code, and what must hold for every launch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.catalog.load import catalog
from ascend_v4.sizing.caches import Layout, model_caches
from ascend_v4.sizing.facts import UnmodelledError, kv_caches, kv_model, kv_release
from ascend_v4.sizing.pool import GIB, in_flight_tokens, pipeline_ranks, pool_of

DEFAULT_BLOCK = {"vllm": 256, "vllm-ascend": 128}


def pool(engine, version, family="flash", spec="none", block=None, chip=None, pp=1, **layout):
    row = kv_release(engine, version)
    caches = kv_caches(engine, chip or ("a3" if engine == "vllm-ascend" else "h200"))
    layout = Layout(caches, row, block or DEFAULT_BLOCK[engine], **layout)
    return pool_of(kv_model(family), layout, spec, pp)


# https://github.com/vllm-project/vllm-project.github.io/blob/c3a01c4a/_posts/2026-04-24-deepseek-v4.md
@pytest.mark.parametrize(
    ("family", "row", "key", "gib"),
    [
        ("pro", 1024, 256, 9.62),
        ("flash", 1024, 256, 6.72),
    ],
)
def test_the_payload_of_a_million_tokens_is_the_published_one(family, row, key, gib):
    ratios = [
        c for c in model_caches(kv_model(family), layout_of("vllm", "0.32.0")) if not c.window
    ]
    quarter = sum(cache.name.endswith(".index") for cache in ratios)
    hundredth = len(ratios) - 2 * quarter
    tokens = 1 << 20
    payload = quarter * tokens // 4 * (row + key) + hundredth * tokens // 128 * row
    assert round(payload / GIB, 2) == gib


def layout_of(engine, version):
    return Layout(kv_caches(engine, "h200"), kv_release(engine, version), DEFAULT_BLOCK[engine])


# V3.2 keeps 656 + 132 bytes for each of 61 layers; the report says 7 % (Flash) and 10 % (Pro).
@pytest.mark.parametrize(("family", "share"), [("flash", 7), ("pro", 10)])
def test_the_share_of_v32_is_the_report_s(family, share):
    ratios = kv_model(family)
    caches = [c for c in model_caches(ratios, layout_of("vllm", "0.32.0")) if not c.window]
    quarter = sum(cache.name.endswith(".index") for cache in caches)
    hundredth = len(caches) - 2 * quarter
    per_token = quarter * (584 + 68) / 4 + hundredth * 584 / 128
    assert int(100 * per_token / ((656 + 132) * 61)) == share


@pytest.mark.parametrize(
    ("engine", "version", "spec", "family", "expected"),
    [
        ("vllm", "0.22.1", "none", "flash", 1_051_776),
        ("vllm", "0.22.1", "dspark", "flash", 1_099_584),
        ("vllm", "0.22.1", "none", "pro", 1_482_048),
        ("vllm", "0.26.0", "none", "flash", 1_039_680),
        ("vllm", "0.26.0", "dspark", "flash", 1_077_120),
        ("vllm", "0.26.0", "none", "pro", 1_473_408),
        ("vllm", "0.32.0", "none", "flash", 1_002_240),
        ("vllm", "0.32.0", "mtp", "flash", 1_002_240),
        ("vllm", "0.32.0", "dspark", "pro", 1_435_968),
        ("vllm-ascend", "0.23.0", "none", "flash", 3_249_664),
        ("vllm-ascend", "0.23.0", "mtp", "flash", 3_397_376),
        ("vllm-ascend", "0.30.0rc2", "none", "pro", 4_579_072),
        ("vllm-ascend", "0.30.0rc2", "mtp", "pro", 4_726_784),
    ],
)
def test_bytes_of_a_block(engine, version, spec, family, expected):
    assert pool(engine, version, family, spec).block_bytes() == expected


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"fp4_indexer": True}, {"0.26.0": 1_039_680, "0.32.0": 917_568}),
        ({"kv_type": "fp8"}, {"0.32.0": 891_392}),
        ({"kv_type": "bf16"}, {"0.32.0": 1_600_000}),
    ],
)
def test_other_kv_types_have_the_measured_block(layout, expected):
    found = {version: pool("vllm", version, **layout).block_bytes() for version in expected}
    assert found == expected


def test_a_draft_layer_costs_a_tuple_on_ascend_and_nothing_upstream():
    plain, mtp = (pool("vllm-ascend", "0.23.0", spec=spec) for spec in ("none", "mtp"))
    dspark = pool("vllm-ascend", "0.23.0", spec="dspark")
    assert mtp.block_bytes() - plain.block_bytes() == 131_072 + 16_640
    assert dspark.block_bytes() - plain.block_bytes() == 3 * (131_072 + 16_640)
    upstream = {
        pool("vllm", "0.32.0", spec=spec).block_bytes() for spec in ("none", "mtp", "dspark")
    }
    assert upstream == {1_002_240}


# GiB of the start-up check for one request; upstream 128K, Ascend 128K and 1M tokens.
@pytest.mark.parametrize(
    ("engine", "version", "family", "tokens", "context", "gib"),
    [
        ("vllm", "0.25.1", "flash", 2048, 131072, 1.34),
        ("vllm", "0.25.1", "flash", 8192, 1 << 20, 7.30),
        ("vllm", "0.28.0", "flash", 8192, 131072, 7.05),
        ("vllm", "0.32.0", "flash", 8192, 131072, 6.71),
        ("vllm", "0.32.0", "pro", 8192, 1 << 20, 14.41),
        ("vllm-ascend", "0.23.0rc1", "flash", 4096, 131072, 2.96),
        ("vllm-ascend", "0.23.0", "flash", 4096, 131072, 5.09),
        ("vllm-ascend", "0.26.0rc1", "pro", 8192, 1 << 20, 21.06),
    ],
)
def test_what_the_startup_check_asks(engine, version, family, tokens, context, gib):
    one = pool(engine, version, family)
    flying = in_flight_tokens(kv_release(engine, version), tokens)
    assert round(one.need(context, flying) / GIB, 2) == gib


@pytest.mark.parametrize(
    ("version", "asynchronous", "pipeline", "spec", "v2", "batches"),
    [
        ("0.25.1", True, 1, "none", None, 1),
        ("0.25.1", True, 4, "none", True, 1),
        ("0.26.0", True, 1, "none", None, 2),
        ("0.26.0", False, 1, "none", None, 1),
        ("0.26.0", True, 4, "none", None, 4),
        ("0.26.0", True, 4, "dspark", None, 5),
        ("0.32.0", True, 4, "none", None, 5),
        ("0.32.0", True, 4, "none", False, 4),
        ("0.32.0", False, 4, "none", None, 4),
    ],
)
def test_batches_in_flight(version, asynchronous, pipeline, spec, v2, batches):
    row = kv_release("vllm", version)
    assert in_flight_tokens(row, 1000, asynchronous, pipeline, spec, v2) == 1000 * batches


def test_pipeline_ranks_put_the_rest_before_the_last():
    assert [len(rank) for rank in pipeline_ranks(43, 4)] == [11, 11, 11, 10]
    assert [len(rank) for rank in pipeline_ranks(61, 8)] == [7, 7, 8, 8, 8, 8, 8, 7]


def test_every_release_from_the_first_known_on_has_arithmetic():
    for engine, first in (("vllm", "0.20.0"), ("vllm-ascend", "0.20.2rc1")):
        versions = catalog().versions(engine)
        for version in versions[versions.index(first) :]:
            assert kv_release(engine, version)["engine"] == engine
    with pytest.raises(UnmodelledError):
        kv_release("vllm-ascend", "0.13.0rc3")
    with pytest.raises(UnmodelledError):
        kv_model("v4.1-flash")


LAUNCHES = st.tuples(
    st.sampled_from(
        [
            ("vllm", "0.20.0"),
            ("vllm", "0.25.1"),
            ("vllm", "0.28.0"),
            ("vllm", "0.32.0"),
            ("vllm-ascend", "0.23.0"),
            ("vllm-ascend", "0.30.0rc2"),
        ]
    ),
    st.sampled_from(["flash", "pro"]),
    st.sampled_from(["none", "mtp", "dspark"]),
    st.integers(1, 8),
)
CONTEXT = st.integers(1, 1 << 20)
FLYING = st.integers(1, 1 << 16)


@settings(max_examples=60, deadline=None)
@given(LAUNCHES, CONTEXT, CONTEXT, FLYING)
def test_more_context_never_needs_less(launch, first, second, flying):
    (engine, version), family, spec, pp = launch
    one = pool(engine, version, family, spec, pp=pp)
    low, high = sorted((first, second))
    assert one.need(low, flying) <= one.need(high, flying)
    assert one.blocks(low, flying) <= one.blocks(high, flying)


@settings(max_examples=60, deadline=None)
@given(LAUNCHES, CONTEXT, FLYING, st.integers(1, 1 << 38), st.integers(0, 1 << 36))
def test_more_memory_never_holds_less(launch, context, flying, memory, more):
    (engine, version), family, spec, pp = launch
    one = pool(engine, version, family, spec, pp=pp)
    before, after = (one.result(size, context, flying) for size in (memory, memory + more))
    assert before.num_blocks <= after.num_blocks
    assert before.starts <= after.starts


@settings(max_examples=40, deadline=None)
@given(LAUNCHES, FLYING, st.integers(1, 1 << 38))
def test_the_longest_context_is_the_last_that_starts(launch, flying, memory):
    (engine, version), family, spec, pp = launch
    one = pool(engine, version, family, spec, pp=pp)
    longest = one.longest_context(memory, flying, 1 << 20)
    assert longest == 0 or one.starts(memory, longest, flying)
    assert longest == 1 << 20 or not one.starts(memory, longest + 1, flying)
