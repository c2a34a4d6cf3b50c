"""No edit of a user's is lost, and a rendering that changed is not kept from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.render import common
from ascend_v4.render.folder import write
from ascend_v4.render.targets import RenderOptions, render, yours
from ascend_v4.render.yours import decide, marked

from .cases import deployment
from .test_more_validators import check_scripts

EDIT = "PATH=/opt/engine/bin:/usr/bin\n"


def files(case: str = "a3") -> dict[str, str]:
    """Return the systemd files of a case under the same names."""
    return {
        Path(name).name: text
        for name, text in render("systemd", deployment(case), RenderOptions()).items()
    }


def written(folder: Path, made: dict[str, str], *, force: bool = False):
    return write(made, folder, yours("systemd", made), force=force)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("systemd", {"flash.env"}),
        ("prometheus", {"alerts.yml"}),
        ("slurm", {"flash.sbatch"}),
        ("bash", set()),
        ("k8s-lws", set()),
    ],
)
def test_which_files_are_the_users(target, names):
    made = render(target, deployment("a3"), RenderOptions())
    assert yours(target, made) == names
    for name, text in made.items():
        assert ("# Yours to edit: " in text) == (name in names)
        top = "\n".join(text.splitlines()[:2])
        assert ("edit the topology and render again" in top) != (name in names)


def test_an_edit_is_kept_and_told(tmp_path):
    written(tmp_path, files())
    env = tmp_path / "flash.env"
    edited = env.read_text() + EDIT
    env.write_text(edited)

    again = written(tmp_path, files())
    assert env.read_text() == edited
    assert (again.kept, [note.severity for note in again.notes]) == ([env], ["info"])
    assert not (tmp_path / "flash.env.new").exists()

    other = files("4xh200")
    changed = written(tmp_path, other)
    beside = tmp_path / "flash.env.new"
    assert env.read_text() == edited
    assert beside.read_text() == other["flash.env"]
    assert beside in changed.paths and env not in changed.paths
    (note,) = changed.notes
    assert (note.severity, str(env) in note.message, str(beside) in note.message) == (
        "warn", True, True,
    )  # fmt: skip
    assert "ascend-v4-flash.service" in {path.name for path in changed.paths}


def test_what_was_taken_over_is_not_told_again(tmp_path):
    """The mark in the file says which version the edits stand on."""
    written(tmp_path, files())
    env = tmp_path / "flash.env"
    env.write_text(env.read_text() + EDIT)
    written(tmp_path, files("4xh200"))
    env.write_text((tmp_path / "flash.env.new").read_text() + EDIT)
    (tmp_path / "flash.env.new").unlink()
    assert [n.severity for n in written(tmp_path, files("4xh200")).notes] == ["info"]
    assert env.read_text().endswith(EDIT)
    assert not (tmp_path / "flash.env.new").exists()


def test_without_an_edit_the_new_version_replaces_the_old(tmp_path):
    written(tmp_path, files())
    done = written(tmp_path, files("4xh200"))
    assert (done.kept, done.notes) == ([], [])
    assert (tmp_path / "flash.env").read_text() == files("4xh200")["flash.env"]
    assert not list(tmp_path.glob("*.new"))


def test_force_overwrites(tmp_path):
    written(tmp_path, files())
    env = tmp_path / "flash.env"
    env.write_text(EDIT)
    done = written(tmp_path, files(), force=True)
    assert (done.kept, env.read_text()) == ([], files()["flash.env"])


@pytest.mark.parametrize("there", [EDIT, "", "# Made by ascend-v4 0.0.9 render systemd\n", b"\xff"])
def test_a_file_without_our_mark_is_the_users(there, tmp_path):
    """Also one that an older release rendered: whether it was edited can't be told."""
    env = tmp_path / "flash.env"
    env.write_bytes(there if isinstance(there, bytes) else there.encode())
    before = env.read_bytes()
    done = written(tmp_path, files())
    assert done.kept == [env]
    assert env.read_bytes() == before
    assert (tmp_path / "flash.env.new").read_text() == files()["flash.env"]


def test_an_edited_new_version_stops_the_writing(tmp_path):
    (tmp_path / "flash.env").write_text(EDIT)
    written(tmp_path, files())
    beside = tmp_path / "flash.env.new"
    beside.write_text(beside.read_text() + EDIT)
    with pytest.raises(AscendV4Error, match=r"flash\.env\.new") as refused:
        written(tmp_path, files("4xh200"))
    assert (refused.value.code, refused.value.kind) == (ExitCode.USAGE, "file-exists")
    assert beside.read_text().endswith(EDIT)


def test_another_release_of_ours_is_no_new_version(monkeypatch, tmp_path):
    old = files()["flash.env"]
    monkeypatch.setattr(common, "MADE_BY", "Made by ascend-v4 99.0.0 render")
    new = files()["flash.env"]
    assert old != new
    assert decide(old, new) == "write"
    assert decide(old + EDIT, new) == "keep"
    assert decide(marked(old + EDIT), new) == "write"


def test_a_script_may_be_run_and_is_sound(tmp_path):
    made = render("slurm", deployment("a3"), RenderOptions())
    (path,) = write(made, tmp_path, yours("slurm", made), force=False).paths
    assert path.stat().st_mode & 0o777 == 0o755
    if shutil.which("shellcheck"):
        check_scripts([path])
