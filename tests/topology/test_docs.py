"""The guide's examples are what its commands print, and each keeps every rule."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.finding import refusing
from ascend_v4.topology.check import check_topology
from ascend_v4.topology.read import known_keys_of, parse_topology

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "topology.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)```\n\n```yaml\n(.*?)```", GUIDE, re.DOTALL)
MUST = ["a2-dp", "a3-dp", "a3-dp4tp4", "a3-1p1d", "cuda-dp-ep", "cuda-pd"]


def test_every_must_shape_has_an_example() -> None:
    assert [shlex.split(command)[4] for command, _ in EXAMPLES] == MUST


@pytest.mark.parametrize(("command", "text"), EXAMPLES, ids=MUST)
def test_the_command_prints_the_example(ascend, command: str, text: str) -> None:
    outcome = ascend(*shlex.split(command.replace("\\\n", " "))[1:])
    assert (outcome.code, outcome.out, outcome.err) == (0, text, "")


@pytest.mark.parametrize(("command", "text"), EXAMPLES, ids=MUST)
def test_the_example_is_planned_and_breaks_nothing(command: str, text: str) -> None:
    found = check_topology(parse_topology(text, "docs/topology.md"), catalog())
    assert found.deployment is not None and refusing(found.findings) == []
    assert {note.id for note in found.findings if note.severity == "warn"} <= {"unvalidated"}


@pytest.mark.parametrize("kind", ["", "nodes", "groups", "router", "kv_pool"])
def test_every_key_is_in_the_guide(kind: str) -> None:
    assert [key for key in known_keys_of(kind) if f"`{key}`" not in GUIDE] == []
