"""``ascend-v4 topology`` on the command line."""

from __future__ import annotations

import io
import json
import sys

import pytest
import yaml

from tests.topology.small import PD, changed, many, text_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Write topologies where the command runs and return their names."""
    monkeypatch.chdir(tmp_path)

    def write(topology: dict, name: str = "t.yaml") -> str:
        (tmp_path / name).write_text(text_of(topology))
        return name

    return write


def test_check_prints_nodes_and_findings(ascend, here):
    outcome = ascend("topology", "check", here(PD))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[:4] == [
        "NODE  ADDRESS   PROCESSES            DEVICES  PORTS",
        "p0    10.0.0.1  4 prefill, 1 router  0-15     7100-7103,8000,12321,36000-36015",
        "d0    10.0.0.2  16 decode            0-15     7100-7115,12321,36000-36015",
        "endpoint: http://127.0.0.1:8000",
    ]
    assert lines[4].startswith("t.yaml:") and "[" in lines[4]


def test_a_refused_topology_is_3_and_shows_the_line(ascend, here):
    outcome = ascend("topology", "check", here(changed(PD, {"nodes.1.devices": 17})))
    assert (outcome.code, outcome.err) == (3, "")
    assert outcome.out.splitlines()[:3] == [
        "t.yaml:13: error: node d0 is to have 17 devices; a node of a3 has 16 [too-many-devices]",
        "    line: devices: 17",
        "    fix: devices: 16 or fewer (dies on A3)",
    ]


def test_a_bad_file_is_2(ascend, here):
    outcome = ascend("topology", "check", here(changed(PD, {"nodes.1.adress": "x"})))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        "error: t.yaml:13: node d0: 'adress' is not a key here; did you mean address?",
        "next:  edit t.yaml",
    ]


def test_json_is_the_deployment_with_its_findings(ascend, here):
    outcome = ascend("topology", "check", here(PD), "--json")
    told = json.loads(outcome.out)
    assert (outcome.code, told["schema"], told["name"]) == (0, 1, "pair")
    assert [node["name"] for node in told["nodes"]] == ["p0", "d0"]
    assert len(told["nodes"][1]["plan"]["processes"]) == 16
    assert all(found["evidence"][0]["file"] == "t.yaml" for found in told["findings"])


def test_json_of_a_bad_file_has_every_problem(ascend, here):
    bad = changed(PD, {"nodes.0.address": 5, "groups.0.replicas": 0})
    outcome = ascend("topology", "check", here(bad), "--json")
    assert outcome.code == 2
    places = [found["evidence"][0]["text"] for found in json.loads(outcome.out)["findings"]]
    assert places == ["address: 5", "replicas: 0"]
    assert json.loads(outcome.err)["error"]["kind"] == "bad-topology"


def test_stdin(ascend, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(text_of(changed(PD, {"chip": "a33"})).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    outcome = ascend("topology", "check", "-")
    assert outcome.code == 2
    assert outcome.err.startswith("error: <stdin>:3: 'a33' is not a chip")


def test_a_long_table_is_cut_and_show_is_whole(ascend, here):
    name = here(many(30))
    outcome = ascend("topology", "check", name)
    assert outcome.code == 0
    assert (
        outcome.out.splitlines()[25]
        == "… and 6 more nodes; ascend-v4 topology show lists every process"
    )
    shown = ascend("topology", "show", name)
    assert shown.code == 0 and len(shown.out.splitlines()) == 1 + 15 * 4 + 15 * 16 + 1
    assert shown.out.splitlines()[1].split() == [
        "prefill-0-r0", "n0", "prefill", "0-3", "7100,12321,36000-36003",
    ]  # fmt: skip


def test_shapes_lists_all(ascend):
    lines = ascend("topology", "shapes").out.splitlines()
    rows = json.loads(ascend("topology", "shapes", "--json").out)
    assert [line.split()[0] for line in lines[1:]] == [row["id"] for row in rows]


def test_init_writes_once(ascend, tmp_path):
    path = tmp_path / "c.yaml"
    made = ascend("topology", "init", "--shape", "a3-1p1d", "-o", path)
    assert (made.code, made.out) == (0, "")
    assert made.err == f"{path} written; next: ascend-v4 topology check {path}\n"
    text = path.read_text()
    assert ascend("topology", "init", "--shape", "a3-1p1d").out == text
    again = ascend("topology", "init", "--shape", "a2-dp", "-o", path)
    assert (again.code, path.read_text()) == (2, text)
    assert again.err.splitlines()[1] == "next:  --force overwrites it"
    assert ascend("topology", "init", "--shape", "a2-dp", "-o", path, "--force").code == 0
    assert yaml.safe_load(path.read_text())["name"] == "a2-dp"
    assert ascend("topology", "check", path).code == 0


def test_init_says_what_nobody_has_published(ascend):
    published = yaml.safe_load(ascend("topology", "init", "--shape", "a3-1p1d").out)
    inferred = yaml.safe_load(ascend("topology", "init", "--shape", "a3-4p1d").out)
    assert "allow_unvalidated" not in published
    assert inferred["allow_unvalidated"] is True


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["chek"], "No such subcommand 'chek'; did you mean check?"),
        (["zzz"], "No such subcommand 'zzz'; there are shapes, init, check, show"),
        (["init", "--shape", "a2-dp", "--node", "a"], "--node takes NAME=ADDRESS, not 'a'"),
        (["init"], "--shape is missing; the shapes are "),
        (["init", "--shape", "a2-dp", "-o", "/no/such/x"], "/no/such/x can't be written"),
        (["check", "none.yaml"], "the topology: none.yaml can't be read"),
    ],
)
def test_usage(ascend, args, said):
    outcome = ascend("topology", *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {said}")
