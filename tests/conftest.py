"""What every test stands on: an isolated user, and the command line as a callable."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from ascend_v4.cli import main
from ascend_v4.host.system import Host

#: The session-wide real engine: installed once, one server for all folders.
pytest_plugins = ["tests.support.engine"]

GOLDEN = Path(__file__).parent / "golden"
#: The user's own home, for the engine that the test command installs once.
REAL_ENV = dict(os.environ)


def pytest_configure(config):
    """Hear INT and HUP: a shell's background job and nohup have them ignored, and children too."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


def pytest_report_header(config):
    from ascend_v4 import __version__

    return f"ascend-v4 {__version__}"


@pytest.fixture(autouse=True)
def isolated_user(tmp_path_factory, monkeypatch):
    """Give each test its own home, no variable of ours, plain output of 80 columns."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("ASCEND_V4_", "XDG_", "MODELSCOPE_", "VLLM_", "ASCEND_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return home


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def ascend(capfd):
    """Run the command line in this process: ``ascend("env", "--chip", "a3")``."""

    def run(*args: str, host: Host | None = None) -> Outcome:
        capfd.readouterr()
        code = main([str(arg) for arg in args], obj=host)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def golden(request):
    """Compare text with ``tests/golden/<name>``; ``--update-golden`` rewrites it."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; pytest --update-golden writes it"
        assert text == path.read_text()

    return compare
