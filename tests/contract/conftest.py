"""Gives contract tests a release on a chip; the one reason to skip is the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ascend_v4.errors import AscendV4Error, ExitCode
from tests.conftest import REAL_ENV
from tests.contract.client import Engine, close_all
from tests.contract.overlays import IndexUnreachable, engine_python


@pytest.fixture(scope="session")
def contract_env() -> Iterator[dict[str, str]]:
    """Return the user's own environment, with the CPU engine installed."""
    python = engine_python(REAL_ENV)
    if not python.exists():
        from ascend_v4.engine.cpu import install_cpu_engine
        from ascend_v4.host.system import Host

        try:
            install_cpu_engine(Host(env=REAL_ENV), python.parents[1], say=print)
        except AscendV4Error as error:
            if error.code == ExitCode.UNREACHABLE:
                pytest.skip(f"the package index could not be reached: {error.message}")
            raise
    yield dict(REAL_ENV)
    close_all()


@pytest.fixture
def engine_of(contract_env: dict[str, str]) -> Callable[[str, str], Engine]:
    """Return ``engine_of(release, chip)``; skips the test where nothing can be downloaded."""

    def engine(release: str, chip: str) -> Engine:
        try:
            return Engine(release, chip, contract_env)
        except IndexUnreachable as error:
            pytest.skip(str(error))

    return engine
