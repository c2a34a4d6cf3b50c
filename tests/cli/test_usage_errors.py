"""Usage errors say where the bad word came from, and what to type instead."""

import pytest

from ascend_v4.cli import COMMANDS


def test_nothing_typed_names_the_commands(ascend):
    done = ascend()
    assert (done.code, done.out) == (2, "")
    listed = ", ".join(COMMANDS)
    assert done.err == f"error: ascend-v4 needs a command: {listed}\nnext:  ascend-v4 --help\n"


def test_a_group_alone_names_its_commands(ascend):
    done = ascend("engine")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ascend-v4 engine needs a command: install, show")
    assert done.err.endswith("\nnext:  ascend-v4 engine --help\n")


def test_a_bad_value_of_a_variable_names_the_variable(ascend, monkeypatch):
    monkeypatch.setenv("ASCEND_V4_PORT", "abc")
    done = ascend("serve", "--chip", "a3", "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: Invalid value for '--port': 'abc' is not a valid integer range."
        " (from the variable ASCEND_V4_PORT)\nnext:  ascend-v4 serve --help\n"
    )


def test_a_bad_value_of_a_file_says_so(ascend, tmp_path):
    config = tmp_path / "launch.yaml"
    config.write_text("chip: a3\nport: abc\n")
    done = ascend("serve", "--config", str(config), "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0].endswith("(from the file given by --config)")


@pytest.mark.parametrize(
    ("version", "code", "refused"), [("0.23.0", 0, ["a3", "a5"]), ("0.23.0.post1", 0, [])]
)
def test_a_release_without_a_chip_is_judged_for_each(ascend, version, code, refused):
    done = ascend("releases", "--check", version)
    assert done.code == code
    told = [line.split()[3].rstrip(":") for line in done.err.splitlines() if "not on" in line]
    assert told == refused
