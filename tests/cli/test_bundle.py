"""``ascend-v4 bundle``: pack, check, install; the last of them without a network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ascend_v4.weights.bundle import tags_of
from ascend_v4.weights.manifest import FileRow, Manifest, load_manifest, save_manifest
from tests.support.checkpoints import checkpoint_files, write_files

SHARD = "quant_model_weights-00002-of-00003.safetensors"
IMAGE = "quay.io/ascend/vllm-ascend:v0.23.0.post1-a3@sha256:" + "0" * 64


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    files = checkpoint_files()
    directory = write_files(tmp_path / "Eco-Tech--tiny-w8a8", files)
    rows = [FileRow(p, len(b), hashlib.sha256(b).hexdigest()) for p, b in sorted(files.items())]
    commit = "a" * 40
    manifest = Manifest(
        "modelscope", "Eco-Tech/tiny-w8a8", "https://modelscope.cn", "master", tuple(rows), True
    )
    save_manifest(Manifest(**{**manifest.__dict__, "commit": commit}), directory)
    return directory


@pytest.fixture
def bundle(ascend, tmp_path: Path, weights: Path) -> Path:
    args = ("bundle", "create", tmp_path / "b", "--model-dir", weights, "--no-wheels", "-q")
    outcome = ascend(*args, "--image", IMAGE, "--archive")
    assert (outcome.code, outcome.out) == (0, f"{tmp_path / 'b.tar'}\n")
    return tmp_path / "b"


def test_what_is_in_it(bundle: Path, weights: Path) -> None:
    found = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    ours = {"SHA256SUMS", "bundle.json", "catalog/compiled.json", "install.sh"}
    ours |= {f"weights/{weights.name}/{path}" for path in checkpoint_files()}
    assert found == ours | {f"weights/{weights.name}.manifest.json"}
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["weights"] == {
        "name": weights.name,
        "repo": "Eco-Tech/tiny-w8a8",
        "commit": "a" * 40,
    }
    assert about["image"]["digest"] == "sha256:" + "0" * 64
    assert about["image"]["pull"] == f"docker pull {IMAGE}"
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=bundle, check=True)


def test_the_rehearsal_needs_no_bundle(ascend, tmp_path: Path) -> None:
    place, target = tmp_path / "rehearsal", tmp_path / "b"
    assert ascend("download", "--profile", "cpu", "--dir", place).code == 0
    for which in (("--model", "rehearsal"), ("--model-dir", place)):
        done = ascend("bundle", "create", target, *which, "-q")
        assert (done.code, target.exists()) == (3, False)
        assert (
            "so it needs no bundle\nnext:  ascend-v4 bundle create TARGET --no-weights" in done.err
        )
    assert ascend("bundle", "create", target, "--no-weights", "--no-wheels", "-q").code == 0


def test_install_puts_it_where_serve_looks(ascend, bundle: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    outcome = ascend("bundle", "install", bundle, "--models", models, "-q")
    place = models / "Eco-Tech--tiny-w8a8"
    assert (outcome.code, outcome.out) == (0, f"{place}\n")
    outcome = ascend("verify", place, "--deep", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{place}: flash-w8a8-mtp, 7 files, ")
    assert outcome.out.endswith("good (every byte checked)\n")
    assert ascend("bundle", "install", bundle, "--models", models, "-q").code == 0


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_damage_on_the_way_is_found(ascend, bundle: Path, form: str) -> None:
    packed = bundle.with_name("b.tar")
    where = packed if form == "archive" else bundle
    assert ascend("bundle", "verify", where, "-q").out == f"{where}: good\n"
    if form == "archive":
        with tarfile.open(packed) as tar:
            at = tar.getmember(f"b/weights/Eco-Tech--tiny-w8a8/{SHARD}").offset_data
        with packed.open("r+b") as file:
            file.seek(at + 500)
            file.write(b"\0\1\2\3")
    else:
        path = bundle / "weights" / "Eco-Tech--tiny-w8a8" / SHARD
        body = path.read_bytes()
        path.unlink()
        path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    outcome = ascend("bundle", "verify", where, "-q")
    assert outcome.code == 13
    assert SHARD in outcome.out
    if form == "directory":
        assert ascend("bundle", "install", where, "-q").code == 13
        path.unlink()
        assert ascend("bundle", "verify", where, "-q").code == 4


def test_a_cut_archive_is_incomplete(ascend, bundle: Path) -> None:
    packed = bundle.with_name("b.tar")
    os.truncate(packed, packed.stat().st_size // 2)
    assert ascend("bundle", "verify", packed, "-q").code in (4, 13)


def test_an_archive_is_installed_without_unpacking_it_first(
    ascend, bundle: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    place = models / "Eco-Tech--tiny-w8a8"
    for _ in range(2):
        outcome = ascend("bundle", "install", bundle.with_name("b.tar"), "--models", models, "-q")
        assert (outcome.code, outcome.out, outcome.err) == (0, f"{place}\n", "")
        found = {p.relative_to(place).as_posix(): p for p in place.rglob("*") if p.is_file()}
        ours = {f".ascend-v4/{name}.json" for name in ("manifest", "stamps")}
        assert set(found) == {*checkpoint_files(), *ours, ".ascend-v4/lock"}
        assert all(found[p].read_bytes() == body for p, body in checkpoint_files().items())
    manifest = load_manifest(place)
    assert manifest is not None
    assert manifest.complete
    # What was compared while it was unpacked isn't read again.
    outcome = ascend("verify", place, "--deep", "--json")
    assert (outcome.code, json.loads(outcome.out)["bytes_read"]) == (0, 0)


def damage(packed: Path, name: str) -> None:
    with tarfile.open(packed) as tar:
        at = tar.getmember(f"b/{name}").offset_data
    with packed.open("r+b") as file:
        file.seek(at + 50)
        file.write(b"\0\1\2\3")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (f"weights/Eco-Tech--tiny-w8a8/{SHARD}", 13),
        ("weights/Eco-Tech--tiny-w8a8.manifest.json", 13),
        ("bundle.json", 13),
        ("catalog/compiled.json", 13),
        ("", 4),
    ],
)
def test_a_damaged_archive_leaves_nothing_that_could_be_served(
    ascend, bundle: Path, tmp_path: Path, name: str, code: int
) -> None:
    packed, models = bundle.with_name("b.tar"), tmp_path / "models"
    if name:
        damage(packed, name)
    else:
        os.truncate(packed, packed.stat().st_size // 2)
    outcome = ascend("bundle", "install", packed, "--models", models, "-q", "--json")
    assert (outcome.code, outcome.out) == (code, "")
    error = json.loads(outcome.err)["error"]
    assert error["next"] == "copy the bundle again"
    assert [p.name for p in models.rglob("*") if p.is_file()] in ([], ["lock"])


def test_what_install_refuses(ascend, bundle: Path, tmp_path: Path) -> None:
    packed, models = bundle.with_name("b.tar"), tmp_path / "models"
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"not a bundle" * 100)
    assert ascend("bundle", "install", junk, "-q").code == 4
    (models / "Eco-Tech--tiny-w8a8").mkdir(parents=True)
    (models / "Eco-Tech--tiny-w8a8" / "config.json").write_text("{}")
    for source in (packed, bundle):
        outcome = ascend("bundle", "install", source, "--models", models, "-q")
        assert outcome.code == 2
        assert "is there already and holds something else" in outcome.err
    assert ascend("bundle", "install", packed, "--models", "/proc/nowhere", "-q").code == 6


def test_another_file_system_gets_a_checked_copy(
    ascend, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "another file system")

    monkeypatch.setattr("os.link", refused)
    models = tmp_path / "models"
    assert ascend("bundle", "install", bundle, "--models", models, "-q").code == 0
    place = models / "Eco-Tech--tiny-w8a8"
    assert (place / SHARD).stat().st_nlink == 1
    assert ascend("verify", place, "--deep", "--no-stamp", "-q").code == 0


def test_refusals(ascend, bundle: Path, tmp_path: Path, weights: Path) -> None:
    assert ascend("bundle", "create", bundle, "--no-weights", "--no-wheels", "-q").code == 2
    assert ascend("bundle", "create", tmp_path / "c", "--no-wheels", "-q").code == 2
    (weights / ".ascend-v4" / "manifest.json").unlink()
    outcome = ascend("bundle", "create", tmp_path / "c", "--model-dir", weights, "-q")
    assert outcome.code == 15
    (tmp_path / "empty").mkdir()
    assert ascend("bundle", "verify", tmp_path / "empty", "-q").code == 4


def test_a_bundle_that_fails_leaves_nothing(ascend, tmp_path: Path) -> None:
    place = tmp_path / "b"
    args = ("bundle", "create", place, "--no-weights", "--no-wheels", "-q")
    done = ascend(*args, "--image-archive", tmp_path / "none.tar")
    assert (done.code, place.exists()) == (2, False)
    assert ascend("bundle", "create", "/proc/none", *args[3:]).code == 6
    assert ascend(*args, "--image", "vllm-ascend:latest").code == 0


@pytest.mark.parametrize(
    ("platform", "first", "last", "count"),
    [
        ("aarch64", "manylinux_2_34_aarch64", "linux_aarch64", 20),
        ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "linux_aarch64", 3),
        ("manylinux_2_28_x86_64", "manylinux_2_28_x86_64", "linux_x86_64", 28),
        ("macosx_14_0_arm64", "macosx_14_0_arm64", "macosx_14_0_arm64", 1),
    ],
)
def test_a_platform_takes_wheels_of_older_ones(
    platform: str, first: str, last: str, count: int
) -> None:
    tags = tags_of(platform)
    assert (tags[0], tags[-1], len(tags)) == (first, last, count)


def test_the_install_script_wants_the_python_of_its_wheels(
    ascend, tmp_path: Path, weights: Path
) -> None:
    args = ("bundle", "create", tmp_path / "b", "--no-weights", "--no-wheels", "-q")
    assert ascend(*args, "--python-version", "3.99").code == 0
    (tmp_path / "b" / "wheels").mkdir()
    (tmp_path / "b" / "wheels" / "x.whl").write_text("")
    done = subprocess.run(
        [tmp_path / "b" / "install.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert done.stderr.startswith("error: the packages in this bundle are for Python 3.99")


def test_the_install_script_needs_no_network(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["unshare", "-rn", str(bundle / "install.sh")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip("no namespace can be made here")
    assert done.returncode == 0, done.stderr
    assert (home / ".local/share/ascend-v4/models/Eco-Tech--tiny-w8a8" / SHARD).is_file()
