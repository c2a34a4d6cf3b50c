"""``envs/``: current, sourceable, nothing about this host."""

import re
import subprocess
from pathlib import Path

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.render.envs import env_files

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "envs").glob("*.env"))


def test_every_file_is_current_and_none_is_left_over():
    wanted = env_files(catalog())
    assert {path.name: path.read_text() for path in FILES} == wanted
    some = {"ascend-a2-0.13.0rc3.env", "ascend-a3-0.23.0.post1.env", "cpu-0.32.0.env"}
    assert some <= set(wanted)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_form_and_sourcing(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    exports = [re.fullmatch(r"export ([A-Z0-9_]+)='([^']*)'", line) for line in lines]
    assert all(exports)
    ran = subprocess.run(
        ["env", "-i", "sh", "-euc", f". {path}; exec env -0"],
        capture_output=True,
        text=True,
        check=True,
    )
    child = dict(item.split("=", 1) for item in ran.stdout.split("\0") if item)
    assert {m[1]: m[2] for m in exports}.items() <= child.items()
