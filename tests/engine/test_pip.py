"""The real pip, in a real environment, with a wheel made here and no network."""

import hashlib
import subprocess
import sys
import zipfile

import pytest

from ascend_v4.engine.pip import Pip, requirement_blocks
from ascend_v4.errors import AscendV4Error
from ascend_v4.host.system import Host


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An environment and a folder with one wheel, ``demo 1.0+cpu``."""
    root = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", str(root / "env")], check=True)
    wheel = root / "wheels" / "demo-1.0+cpu-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "demo-1.0+cpu.dist-info"
    files = {
        "demo.py": "VALUE = 7\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0+cpu\n"
        "Requires-Dist: not-there\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        archive.writestr(f"{info}/RECORD", record)
    return root, hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def pip(place):
    root, _ = place
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(root),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(root / "wheels"),
    }
    return Pip(Host(env=env), root / "env")


def test_offers_tells_the_cpu_build_from_any_other(pip):
    assert pip.offers("demo==1.0+cpu")
    assert not pip.offers("demo==1.0+cu130")
    assert not pip.offers("absent==1.0")


def test_a_wrong_hash_is_refused_and_nothing_installed(pip, place):
    with pytest.raises(AscendV4Error) as caught:
        pip.install_locked([f"demo==1.0+cpu --hash=sha256:{'0' * 64}\n"])
    assert caught.value.kind == "hash-mismatch"
    assert not list(place[0].glob("env/lib/python3*/site-packages/demo*"))


def test_a_package_that_is_not_there_names_itself(pip):
    with pytest.raises(AscendV4Error) as caught:
        pip.install_locked([f"absent==1.0 --hash=sha256:{'0' * 64}\n"])
    assert (caught.value.kind, caught.value.message) == (
        "download-failed",
        "pip could not install the CPU engine: Could not find a version that satisfies "
        "the requirement absent==1.0 (from versions: none)",
    )


def test_the_right_hash_installs_without_dependencies(pip, place):
    root, digest = place
    pip.install_locked([f"demo==1.0+cpu \\\n    --hash=sha256:{digest}\n"])
    done = pip.host.run([str(root / "env/bin/python"), "-c", "import demo; print(demo.VALUE)"])
    assert done.stdout == "7\n"
    assert not (root / "env" / "ascend-v4-requirements.txt").exists()
    pip.install_unlocked(str(root / "wheels" / "demo-1.0+cpu-py3-none-any.whl"))


def test_blocks_keep_each_requirement_whole():
    text = "# head\na==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nb-c==2+cpu ; x\n"
    assert requirement_blocks(text) == {
        "a": "a==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n",
        "b-c": "b-c==2+cpu ; x\n",
    }
