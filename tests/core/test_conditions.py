"""The condition language of the catalog."""

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.conditions import applies, evaluate, look_up

FACTS = {
    "engine": "vllm-ascend",
    "version": "0.23.0",
    "profile": "ascend",
    "chip": "a2",
    "chip_variant": "a2:910b4",
    "tp": 8,
    "spec": ["mtp"],
    "env": {"VLLM_ASCEND_ENABLE_FLASHCOMM1": "1", "OFF": "false"},
    "flag": {"block-size": "128", "additional-config": {"a": {"b": True}, "c.d": 1}},
}


@pytest.mark.parametrize(
    "path,value",
    [
        ("tp", 8),
        ("env.OFF", "false"),
        ("env.NONE", None),
        ("flag.block-size", "128"),
        ("flag.additional-config.a.b", True),
        ("flag.additional-config.c.d", 1),
        ("flag.block-size.deeper", None),
        ("nothing.at.all", None),
    ],
)
def test_look_up(path, value):
    assert look_up(FACTS, path) == value


@pytest.mark.parametrize(
    "condition,holds",
    [
        (["tp", "==", 8], True),
        (["flag.block-size", "==", 128], True),
        (["env.VLLM_ASCEND_ENABLE_FLASHCOMM1", "!=", 1], False),
        (["flag.block-size", "in", [32, 64, 128]], True),
        (["flag.block-size", "not-in", [32, 64]], True),
        (["spec", "has", "mtp"], True),
        (["env.OFF", "true", False], True),
        (["env.OFF", "set", True], True),
        (["env.NONE", "set", False], True),
        (["tp", ">", {"fact": "flag.block-size"}], False),
        (["tp", "divides", 16], True),
        (["tp", "divides", 12], False),
        (["env.NONE", "<", 5], False),
        (["all", ["tp", ">", 1], ["not", ["tp", ">", 8]]], True),
        (["any", ["tp", ">", 8], ["env.NONE", "set", True]], False),
    ],
)
def test_evaluate(condition, holds):
    assert evaluate(condition, FACTS) is holds


@pytest.mark.parametrize(
    "when,holds",
    [
        ({}, True),
        ({"engine": "vllm"}, False),
        ({"engine": "vllm-ascend", "since": "0.23.0"}, True),
        ({"engine": "vllm-ascend", "since": "0.23.0.post1"}, False),
        ({"engine": "vllm-ascend", "until": "0.23.0rc1"}, False),
        ({"engine": "vllm-ascend", "since": "deepseekv4", "until": "0.30.0rc2"}, True),
        ({"versions": ["0.23.0"], "engine": "vllm-ascend"}, True),
        ({"chip": ["a2"]}, True),
        ({"chip": ["a2:910b4"]}, True),
        ({"chip": ["a3"]}, False),
        ({"profile": ["cuda"]}, False),
        ({"where": ["tp", ">", 8]}, False),
    ],
)
def test_applies(when, holds):
    assert applies(when, FACTS, catalog()) is holds
