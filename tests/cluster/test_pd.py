"""Prefill and decode of the fake engine on one node: what becomes of a transfer that fails."""

import json
import sys

import pytest

from tests.support.fake_tree_run import ROOT, free_port

OPTIONS = ("--no-check-engine", "--skip-preflight", "--probe-interval", 1, "--probe-timeout", 1)


@pytest.fixture
def pair(nodes):
    """Make a prefill and a decode server behind a router that acts by a script of its own."""

    def make(**router):
        one = nodes(1, transferred=64)
        place = one.trees[0].place / "router"
        place.mkdir()
        (place / "vllm.json").write_text(json.dumps(router))
        (place / "router.py").write_text((ROOT / "tests/support/fake_tree.py").read_text())
        words = f"exec {sys.executable} -IS {place}/router.py"
        one.trees[0].fake.program("vllm-router", f'#!/bin/sh\n{words} "$@"\n')
        topology = one.deployment.topology
        sides = ("prefill", "decode")
        topology["groups"] = [{"name": side, "role": side, "nodes": ["n0"]} for side in sides]
        topology["router"] = {"port": free_port(), "metrics_port": free_port()}
        one.deployment.write(topology)
        return one

    return make


def test_no_prompt_gets_an_answer_and_nothing_is_transferred(pair):
    """Each server answers alone; the router's prompts hang: 10, and the node is named."""
    one = pair(hang_after_s=2)
    one.up(*OPTIONS).ready()
    assert one.deployment.end() == 10
    error = one.deployment.error()
    assert (error["kind"], error["message"].split(": ")[0]) == ("no-kv-transfer", "node n0")
    assert (
        "router: 3 prompts in a row got no answer, and no KV cache came to a decode server"
        in (error["message"])
    )
    assert error["next"] == (
        "on n0: see the network between prefill and decode, and start the deployment again"
    )
    assert one.alive() == {}


def test_a_router_that_answers_goes_on(pair):
    """No counter moves while nobody asks, and that is nothing."""
    one = pair()
    one.up(*OPTIONS).ready()
    with pytest.raises(AssertionError, match="it goes on"):
        one.deployment.end(timeout_s=8)
    assert one.deployment.end(15) == 143
    assert one.alive() == {}
