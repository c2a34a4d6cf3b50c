"""A host made of files: device nodes, npu-smi, version files, PCI, and a fake vllm.

``FakeHost(tmp_path)`` starts as a bare machine; each method adds a part and returns
the same FakeHost, ``.host()`` gives the ``Host`` the product looks through::

    host = FakeHost(tmp_path).npus("a3-idle", davinci=16).vllm("serve").host()
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ascend_v4.host.system import Host

_FIXTURES = Path(__file__).resolve().parents[1] / "data" / "npu-smi"
_ASCEND_INSTALL = """\
UserName=HwHiAiUser
UserGroup=HwHiAiUser
Driver_Install_Type=full
Driver_Install_Path_Param=/usr/local/Ascend
Driver_Install_For_All=yes
Driver_Install_Status=complete
"""


def npu_smi_text(name: str) -> str:
    """Return a recorded ``npu-smi info`` by its name in tests/data/npu-smi."""
    return (_FIXTURES / f"{name}.txt").read_text()


class FakeHost:
    """Builds a host tree below ``root``, with its programs in ``root/bin``."""

    def __init__(self, root: Path, env: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        self._env = dict(env or {})

    def host(self) -> Host:
        """Return the host; its PATH holds the fake programs and nothing else."""
        return Host(root=self.root, env=self.environ())

    def environ(self, *more_path: str) -> dict[str, str]:
        """Return the environment, with ``more_path`` behind the fake programs on PATH."""
        path = ":".join([str(self.bin), *more_path])
        locks = str(self.root / "locks")
        home = {"HOME": str(self.root / "root"), "ASCEND_V4_LOCK_DIR": locks}
        return {"PATH": path, **home, **self._env}

    def file(self, absolute: str, text: str = "") -> FakeHost:
        """Write a file of the host, such as ``/etc/hccn.conf``."""
        path = self.root / absolute.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return self

    def program(self, name: str, text: str) -> FakeHost:
        """Put an executable on the host's PATH."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return self

    def davinci(self, *numbers: int) -> FakeHost:
        """Add /dev/davinciN and, as every driver does, the manager nodes."""
        for name in ("davinci_manager", "devmm_svm", "hisi_hdc"):
            self.file(f"/dev/{name}")
        for number in numbers:
            self.file(f"/dev/davinci{number}")
        return self

    def pci(self, device: str, count: int, vendor: str = "0x19e5") -> FakeHost:
        """Add ``count`` processors with a PCI device id such as ``0xd802``."""
        taken = len(list(self.root.glob("sys/bus/pci/devices/*")))
        for number in range(taken, taken + count):
            place = f"/sys/bus/pci/devices/0000:{number:02x}:00.0"
            self.file(f"{place}/vendor", f"{vendor}\n").file(f"{place}/device", f"{device}\n")
        return self

    def npu_smi(
        self, answers: Mapping[str, str], *, code: int = 0, delay_s: float = 0.0, stderr: str = ""
    ) -> FakeHost:
        """Add an npu-smi that prints ``answers`` by its arguments (``info -m``).

        Other arguments print a usage line and exit 1. ``code`` and ``stderr`` hold for
        every answer; ``delay_s`` is slept before it.
        """
        answer_dir = self.root / "npu-smi-answers"
        answer_dir.mkdir(exist_ok=True)
        for arguments, text in answers.items():
            (answer_dir / arguments).write_text(text)
        cat, sleep = shutil.which("cat"), shutil.which("sleep")
        answer = f'{shlex.quote(str(answer_dir))}/"$*"'
        lines = [
            "#!/bin/sh",
            f"[ -f {answer} ] || {{ echo 'Usage: npu-smi info' >&2; exit 1; }}",
            f"{sleep} {delay_s}" if delay_s else ":",
            f"{cat} {answer}",
            f"printf '%s' {shlex.quote(stderr)} >&2",
            f"exit {code}",
        ]
        return self.program("npu-smi", "\n".join(lines) + "\n")

    def npus(self, layout: str, davinci: int, **tool: Any) -> FakeHost:
        """Make it an NPU host: ``davinci`` device nodes, npu-smi with a recorded layout,
        ``/etc/ascend_install.info`` and the driver's version file.
        """
        version = "Version=25.3.rc1\npackage_version=25.3.rc1\n"
        self.file("/etc/ascend_install.info", _ASCEND_INSTALL)
        self.file("/usr/local/Ascend/driver/version.info", version)
        return self.davinci(*range(davinci)).npu_smi({"info": npu_smi_text(layout)}, **tool)

    def vllm(self, do: str = "serve", **script: Any) -> FakeHost:
        """Put a fake ``vllm`` on PATH that acts by ``do`` (``serve`` or ``exit``).

        The other keys are those of tests/support/fake_vllm.py. Calling it again changes
        what the next start does.
        """
        source = Path(__file__).with_name("fake_vllm.py").read_text()
        (self.bin / "vllm.json").write_text(json.dumps({"do": do, **script}))
        return self.program("vllm", f"#!{sys.executable} -IS\n{source}")

    def vllm_calls(self) -> list[dict[str, Any]]:
        """Return what each start of the fake vllm got: argv (less the program), env, pid, cwd."""
        log = self.bin / "vllm-calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
