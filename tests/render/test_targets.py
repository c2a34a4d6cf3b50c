"""Every target of this part: golden folders, the same bytes each time, no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_v4.cli.render import TARGETS as NAMED
from ascend_v4.render.targets import TARGETS, RenderOptions, render
from tests.conftest import GOLDEN

from .cases import CASES, KEY_FILE, MORE, deployment

MINE = ("bash", "docker", "systemd", "k8s-lws")


def test_the_command_names_every_target():
    assert tuple(TARGETS) == NAMED


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", MINE)
def test_golden(target, case, golden, request):
    files = render(target, deployment(case), RenderOptions())
    folder = GOLDEN / "render" / target / case
    if request.config.getoption("--update-golden") and folder.exists():
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                path.unlink()
    for name, text in files.items():
        golden(f"render/{target}/{case}/{name}", text)
    stored = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert stored == set(files)


def test_hash_seed_changes_nothing(tmp_path):
    """Two interpreters with other hash seeds write the same bytes."""
    code = (
        "import json, sys; from tests.render.cases import MORE, deployment;"
        "from ascend_v4.render.targets import render, RenderOptions;"
        f"json.dump([render(t, deployment(c), RenderOptions()) for t in {MINE!r} for c in MORE],"
        " sys.stdout)"
    )
    texts = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        texts.append(done.stdout)
    assert texts[0] == texts[1]
    assert len(json.loads(texts[0])) == len(MINE) * len(MORE)


@pytest.mark.parametrize("target", MINE)
def test_secrets_stay_where_they_are(target, tmp_path, ascend):
    """A rendering names the file or the Secret of the API key; it never reads it."""
    key = tmp_path / "api-key"
    key.write_text("swordfish")
    done = ascend("render", target, "--chip", "a3", "--api-key-file", key)
    assert done.code == 0, done.err
    assert "swordfish" not in done.out + done.err
    named = "flash-api-key" if target == "k8s-lws" else str(key)
    made = ascend("render", target, "--chip", "a3", "--api-key-file", key, "--name", "flash")
    assert named in made.out


@pytest.mark.parametrize("target", ("docker", "k8s-lws"))
def test_privileged_only_where_asked(target):
    plain = "\n".join(render(target, deployment("a3"), RenderOptions()).values())
    asked = "\n".join(render(target, deployment("a3"), RenderOptions(privileged=True)).values())
    lines = [line for line in plain.splitlines() if not line.lstrip().startswith("#")]
    assert not any("privileged" in line for line in lines)
    assert "IPC_LOCK" in plain
    assert "--privileged" in asked or "privileged: true" in asked
    assert "IPC_LOCK" not in asked
    assert KEY_FILE not in plain or target == "docker"


@pytest.mark.parametrize("case", MORE)
def test_every_file_says_who_made_it(case):
    for target in MINE:
        for name, text in render(target, deployment(case), RenderOptions()).items():
            assert "Made by ascend-v4" in text.split("\n", 3)[0 if text[0] == "#" else 1] or (
                "Made by ascend-v4" in text.split("\n", 3)[1]
            ), (target, name)
