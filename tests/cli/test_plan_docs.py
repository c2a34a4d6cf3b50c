"""docs/plan.md says what the tool says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plan.md"
LOG = "Available KV cache memory: 10.29 GiB\nModel loading took 75.64 GiB\n"


def examples():
    """Return (command line, expected lines) of the page's console blocks."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.S):
        for example in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *lines = example.splitlines()
            found.append((command, lines))
    return found


def pattern(lines):
    """Return the expected lines as an expression: a lone … is any lines, at an end any words."""
    parts = []
    for line in lines:
        if line == "…":
            parts.append(r"(?:.*\n)*?")
        elif line.endswith("…"):
            parts.append(re.escape(line[:-1]) + r".*\n")
        else:
            parts.append(re.escape(line) + r"\n")
    return "".join(parts)


@pytest.mark.parametrize(("command", "lines"), examples())
def test_each_example_prints_what_the_page_shows(ascend, command, lines):
    words = shlex.split(command.removesuffix("; echo $?"))
    assert words[:2] == ["ascend-v4", "plan"]
    done = ascend(*words[1:])
    shows_code = command.endswith("; echo $?")
    code = int(lines.pop()) if shows_code else 0
    assert done.code == code
    assert re.fullmatch(pattern(lines), done.out), f"the page shows\n{lines}\nnot\n{done.out}"


def test_there_are_examples():
    assert len(examples()) >= 3


def commands():
    """Return the commands of the page's table."""
    return re.findall(r"^\| `(plan [^`]*)` \|", PAGE.read_text(), re.M)


@pytest.mark.parametrize("command", commands())
def test_each_command_of_the_table_is_taken(ascend, command, tmp_path):
    log = tmp_path / "startup.log"
    log.write_text(LOG)
    line = command.replace("startup.log", str(log)).replace("plan.svg", str(tmp_path / "plan.svg"))
    line = line.replace(" A B", " 0.25.1 0.26.0").replace("…", "8xh200")
    words = shlex.split(line)
    if "--hardware" not in words:
        words += ["--hardware", "2xh200"]
    if "X" in words:
        words[words.index("X")] = "32"
    done = ascend(*words)
    missing = done.code == 2 and "pip install 'ascend-v4[plot]'" in done.err
    assert done.code == 0 or missing, done.err
