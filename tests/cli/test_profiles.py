"""``ascend-v4 profiles``: whole outputs."""

import json

import pytest


@pytest.mark.parametrize(
    "name,options",
    [
        ("profiles", []),
        ("chips", ["--chips"]),
        ("models", ["--models"]),
        ("vllm-ascend", ["--releases", "vllm-ascend"]),
        ("vllm", ["--releases", "vllm"]),
    ],
)
def test_tables(ascend, golden, name, options):
    done = ascend("profiles", *options)
    assert (done.code, done.err) == (0, "")
    golden(f"profiles/{name}.txt", done.out)
    rows = json.loads(ascend("profiles", *options, "--json").out)
    assert len(rows) == len(done.out.splitlines()) - 1


def test_unknown_engine(ascend):
    done = ascend("profiles", "--releases", "sglang")
    assert done.code == 2
    assert "'sglang' is not one of vllm-ascend, vllm" in done.err
