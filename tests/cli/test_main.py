"""The one door: help without loading a command, errors, docs that name every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_v4.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("pydantic", "yaml", "httpx", "openai", "psutil", "rich", "modelscope", "pynvml", "torch")


def test_help_lists_every_command(ascend):
    done = ascend("--help")
    assert done.code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name}" in done.out
        assert text in " ".join(done.out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(ascend, name):
    done = ascend(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: ascend-v4 {name}")


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        *[[name, "--help"] for name in COMMANDS],
        ["env", "--chip", "a3"],
        ["serve", "--chip", "a3", "--dry-run"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(args):
    code = (
        "import sys; from ascend_v4.cli import main; main(sys.argv[1:]); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_unknown_command_names_the_nearest(ascend):
    done = ascend("profile")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: No such command 'profile'. Did you mean profiles?\nnext:  ascend-v4 --help\n"
    )


def test_unknown_option_says_where_help_is(ascend):
    done = ascend("env", "--chips", "a3")
    assert done.code == 2
    assert done.err.endswith("next:  ascend-v4 env --help\n")


def test_every_command_is_in_the_readme_and_has_a_page():
    readme = (ROOT / "README.md").read_text()
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for name in COMMANDS:
        assert f"[`{name}`](docs/" in readme
        assert f"ascend-v4 {name}" in pages


def test_every_launch_option_is_documented():
    from ascend_v4.cli.options import LAUNCH_OPTIONS

    text = (ROOT / "docs" / "interfaces.md").read_text()
    for name, (flag, _, _) in LAUNCH_OPTIONS.items():
        assert f"| `{flag}` | `ASCEND_V4_{name.upper()}` | `{name}` |" in text


def test_links_in_docs_lead_somewhere():
    import re

    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "words", ["profiles", "profiles --json", "env --chip a3", "plan --chip a3", "--help"]
)
def test_a_full_stdout_is_one_clear_error(words, buffered):
    environ = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ascend_v4", *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            check=False,
        )
    message = "the result can't be written to stdout: No space left on device"
    if "--json" in words:
        assert json.loads(done.stderr)["error"] == {
            "code": 1,
            "kind": "stdout",
            "message": message,
            "next": "make room there, or write elsewhere",
        }
    else:
        assert done.stderr.endswith(
            f"error: {message}\nnext:  make room there, or write elsewhere\n"
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_one_clear_error():
    command = f"'{sys.executable}' -m ascend_v4 profiles >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the result can't be written to stdout: Bad file desc")


def test_a_fault_of_ours_is_not_blamed_on_stdout(monkeypatch):
    """An OSError of any other writer stays what it is."""

    def broken(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ascend_v4.cli.cli.main", broken)
    with pytest.raises(OSError, match="No space left"):
        main(["profiles"])
