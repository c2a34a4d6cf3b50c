"""The XDG base directories."""

from pathlib import Path

import pytest

from ascend_v4 import paths
from ascend_v4.errors import AscendV4Error


def test_base_directories_are_where_the_variables_say():
    env = {"HOME": "/home/op", "XDG_STATE_HOME": "/var/s"}
    assert paths.runs_dir(env) == Path("/var/s/ascend-v4/runs")
    assert paths.data_home(env) == Path("/home/op/.local/share/ascend-v4")


def test_a_relative_base_directory_is_passed_over():
    env = {"HOME": "/home/op", "XDG_STATE_HOME": "state"}
    assert paths.runs_dir(env) == Path("/home/op/.local/state/ascend-v4/runs")


def test_a_user_without_a_home_is_told(monkeypatch):
    def homeless(_self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(AscendV4Error) as caught:
        paths.runs_dir({})
    assert (caught.value.code, caught.value.kind) == (6, "no-home")
