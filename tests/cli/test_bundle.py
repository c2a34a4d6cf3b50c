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

from ascend_v4.weights.manifest import FileRow, Manifest, save_manifest
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


def test_an_archive_says_how_to_go_on(ascend, bundle: Path) -> None:
    packed = bundle.with_name("b.tar")
    outcome = ascend("bundle", "install", packed, "-q")
    assert outcome.code == 2
    assert outcome.err == f"error: {packed} is packed\nnext:  tar -xf {packed} && b/install.sh\n"


def test_refusals(ascend, bundle: Path, tmp_path: Path, weights: Path) -> None:
    assert ascend("bundle", "create", bundle, "--no-weights", "--no-wheels", "-q").code == 2
    assert ascend("bundle", "create", tmp_path / "c", "--no-wheels", "-q").code == 2
    (weights / ".ascend-v4" / "manifest.json").unlink()
    outcome = ascend("bundle", "create", tmp_path / "c", "--model-dir", weights, "-q")
    assert outcome.code == 15
    (tmp_path / "empty").mkdir()
    assert ascend("bundle", "verify", tmp_path / "empty", "-q").code == 4


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
