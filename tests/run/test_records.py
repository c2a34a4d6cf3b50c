"""Files of a run that say nonsense: no command fails over them, and none believes them."""

import json

import pytest

from ascend_v4.run.records import parsed

WRONG_STATES = [
    {"members": [1, 2]},
    {"members": [{"processes": 5, "main": {"pid": 10**30, "start": 1}}], "launcher": [1]},
    {"started_at": "soon", "ready_at": [], "starts": {}},
    {"started_at": float("nan")},
    {"started_at": 1e308},
    {"model": None, "endpoint": 5, "phase": [], "state": {"a": 1}, "resources": 7},
    {"model": "\ud800", "state": "ready"},
    {"nodes": [{"name": 1}, 2], "cluster": 5},
]
WRONG_EXITS = [
    {"code": "x"},
    {"code": 10**30},
    {"code": None},
    {"failure": 5},
    {"code": 9, "failure": 5},
    {"code": 9, "failure": {"message": 7}},
    {"code": 9, "failure": {"message": "died", "kind": []}, "left": 3, "unconfirmed": [1, {}]},
]


@pytest.mark.parametrize(
    "wrong", [*WRONG_STATES, *WRONG_EXITS], ids=lambda one: json.dumps(one)[:40]
)
def test_a_wrong_record_disables_no_command(tree, wrong):
    """Neither the commands on that run nor those on all runs."""
    from ascend_v4.run.procs import boot_id

    path = tree.state / "ascend-v4" / "runs" / "20200101-000000-aaaa"
    (path / "logs").mkdir(parents=True)
    name = "state" if wrong in WRONG_STATES else "exit"
    (path / f"{name}.json").write_text(json.dumps({"boot_id": boot_id(), **wrong}))
    for words in (("status",), ("ps", "--all"), ("ps", "--all", "--json"), ("reap", "--yes")):
        done = tree.run(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    done = tree.run("wait", path.name)
    assert (done.returncode, "Traceback" in done.stderr) == (9, False), done.stderr


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "[]", '"a"', "{", ""])
def test_damaged_records_are_none(text):
    assert (parsed("state", text), parsed("exit", text)) == ({}, {})


def test_what_is_right_stays():
    state = {
        "schema": 1,
        "state": "ready",
        "launcher": {"pid": 7, "start": 5},
        "members": [{"name": "server", "main": None, "processes": [{"pid": 8, "start": 5}]}],
        "started_at": 1.5,
        "starts": 2,
        "nodes": [{"name": "n0", "state": "ready", "run_id": "x"}],
        "more": None,
    }
    assert parsed("state", json.dumps(state)) == state
    end = {"code": 0, "failure": None, "stopped_by": None, "ready_s": 0.5, "attempts": [{}]}
    assert parsed("exit", json.dumps(end)) == end
