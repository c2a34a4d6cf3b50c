"""The published routers: vllm-router from its wheel, the proxy from each release's sources."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.contract.overlays import (
    EXTRA_PACKAGES,
    Part,
    _download,
    _extras,
    _source_members,
    _Workspace,
    cache_dir,
    engine_python,
)

__all__ = ["IMAGE_ROOT", "parsed_by_proxy", "parsed_by_router", "proxy_script", "router_path"]

ROUTER = "vllm-router==0.1.17"
#: Where the image keeps the sources (Dockerfile.a3 of every release: COPY . …).
IMAGE_ROOT = "/vllm-workspace/vllm-ascend/"
READ_ROUTER = (
    "import json, sys; from vllm_router.launch_router import parse_router_args as parse; "
    "print(json.dumps(vars(parse(sys.argv[1:])), default=str))"
)
READ_PROXY = (
    "import importlib.util, json, sys; "
    "spec = importlib.util.spec_from_file_location('proxy', sys.argv[1]); "
    "proxy = importlib.util.module_from_spec(spec); sys.argv[1:] = sys.argv[2:]; "
    "sys.modules['proxy'] = proxy; spec.loader.exec_module(proxy); "
    "print(json.dumps(vars(proxy.parse_args()), default=str))"
)


def router_path(env: Mapping[str, str]) -> str:
    """Return the PYTHONPATH under which ``vllm_router`` can be imported, downloaded once."""
    router = _extras(env, "router", (ROUTER,))
    return os.pathsep.join(map(str, (router, _extras(env, "extras", EXTRA_PACKAGES))))


def proxy_script(env: Mapping[str, str], release: str, path: str) -> Path:
    """Return the file of a release's sources that lies at ``path``, downloaded once.

    Raises FileNotFoundError where the release has no such file.
    """
    # Under its own name: its server workers import it by that.
    kept = cache_dir(env) / f"proxy-{release}" / Path(path).name
    if kept.exists():
        return kept
    with _Workspace(cache_dir(env)) as work:
        archive = _download(env, Part("vllm-ascend", release, "vllm_ascend", True), work)
        for name, content in _source_members(archive):
            if str(name) == path:
                (work / kept.name).write_bytes(content)
                kept.parent.mkdir(exist_ok=True)
                (work / kept.name).replace(kept)
                return kept
    raise FileNotFoundError(f"vllm-ascend {release} has no {path}")


def _parsed(env: Mapping[str, str], path: str, words: Sequence[str]) -> dict[str, object]:
    child = {**env, "PYTHONPATH": path}
    done = subprocess.run(
        [str(engine_python(env)), "-c", *words],
        env=child, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def parsed_by_router(env: Mapping[str, str], argv: Sequence[str]) -> dict[str, object]:
    """Return what vllm-router's own parser makes of a command line; fails as it does."""
    return _parsed(env, router_path(env), [READ_ROUTER, *argv[1:]])


def parsed_by_proxy(env: Mapping[str, str], release: str, argv: Sequence[str]) -> dict[str, object]:
    """Return what the proxy of a release makes of ``python PATH …``; fails as it does."""
    script = proxy_script(env, release, argv[1].removeprefix(IMAGE_ROOT))
    return _parsed(env, "", [READ_PROXY, str(script), *argv[2:]])
