"""The launch options that several commands share, defined once.

Precedence is click's own: flag, then ``ASCEND_V4_*`` variable, then the ``--config``
file, then what the profile says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ascend_v4.errors import AscendV4Error, ExitCode

from .types import Word

if TYPE_CHECKING:
    from ascend_v4.core.request import LaunchRequest

__all__ = ["LAUNCH_OPTIONS", "json_option", "launch_options", "request_of"]

Command = TypeVar("Command", bound=Callable[..., Any])

POSITIVE = click.IntRange(min=1)

#: Option name -> (declarations, type, help). Names are those of LaunchRequest.
LAUNCH_OPTIONS: dict[str, tuple[str, Any, str]] = {
    "profile": ("--profile", str, "ascend, cuda, cpu or auto (serve and doctor look at the host)."),
    "chip": ("--chip", str, "a2, a3, a5, h200, …; a variant as a2:910b4."),
    "devices": ("--devices", POSITIVE, "Logical devices to use (dies on A3)."),
    "nodes": ("--nodes", POSITIVE, "Machines of the deployment."),
    "engine": (
        "--engine",
        click.Choice(["vllm-ascend", "vllm"]),
        "Where the profile leaves a doubt.",
    ),
    "engine_version": ("--engine-version", str, "Release of the engine."),
    "image": ("--image", str, "ubuntu or openeuler: the official one; or NAME:TAG of another."),
    "model": ("--model", str, "Model id of the catalog, or a hub id."),
    "model_dir": ("--model-dir", click.Path(), "Directory of the weights."),
    "workload": (
        "--workload",
        click.Choice(["latency", "throughput", "long-context"]),
        "What the launch is tuned for.",
    ),
    "context": ("--context", POSITIVE, "Longest prompt and answer together, tokens."),
    "concurrency": ("--concurrency", POSITIVE, "Requests at once, over all replicas."),
    "spec": ("--spec", click.Choice(["none", "mtp", "dspark"]), "Speculative decoding."),
    "prefix_caching": ("--prefix-caching/--no-prefix-caching", None, "Keep and reuse prefixes."),
    "fused_mc2": ("--fused-mc2/--no-fused-mc2", None, "Fused MoE dispatch and combine (A3)."),
    "tensor_parallel_size": ("--tensor-parallel-size", POSITIVE, "Ranks of one replica."),
    "data_parallel_size": ("--data-parallel-size", POSITIVE, "Replicas."),
    "max_num_seqs": ("--max-num-seqs", POSITIVE, "Requests at once for each replica."),
    "max_num_batched_tokens": ("--max-num-batched-tokens", POSITIVE, "Tokens of one step."),
    "block_size": ("--block-size", POSITIVE, "Tokens of one KV block."),
    "gpu_memory_utilization": (
        "--gpu-memory-utilization",
        click.FloatRange(0, 1, min_open=True),
        "Share of device memory to use.",
    ),
    "served_model_name": ("--served-model-name", str, "Name that clients ask for."),
    "host": ("--host", Word(), "Address to listen on (loopback by default)."),
    "port": ("--port", click.IntRange(1, 65535), "Port to listen on."),
    "api_key_file": ("--api-key-file", click.Path(), "File that holds the API key."),
}


def read_config(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Lay a YAML file of launch options below flags and variables.

    Raises AscendV4Error (usage) for malformed YAML, an unknown key or a value that is
    not one of the option's type.
    """
    if value is None:
        return None
    import yaml

    from ascend_v4.files import read_user_text

    try:
        loaded = yaml.safe_load(read_user_text(value, "--config"))
    except yaml.YAMLError as error:
        cause = " ".join(str(error).split())
        raise AscendV4Error(
            ExitCode.USAGE, "bad-config", f"{value} is not valid YAML: {cause}", f"edit {value}"
        ) from error
    ctx.default_map = {**(ctx.default_map or {}), **checked_config(loaded, value)}
    return value


def checked_config(loaded: object, path: str) -> dict[str, Any]:
    """Return a config file's options by parameter name; see :func:`read_config` for errors."""
    from ascend_v4.catalog.load import nearest

    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise AscendV4Error(
            ExitCode.USAGE, "bad-config", f"{path} must hold `option: value` lines", f"edit {path}"
        )
    known = {**dict.fromkeys(LAUNCH_OPTIONS), "allow_unvalidated": None}
    options = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise AscendV4Error(
                ExitCode.USAGE,
                "unknown-option",
                f"{path}: '{key}' is not a launch option. {nearest(name, list(known))}".rstrip(),
                "ascend-v4 serve --help",
            )
        if isinstance(value, (dict, list)):
            raise AscendV4Error(
                ExitCode.USAGE, "bad-config", f"{path}: {key} must be one value", f"edit {path}"
            )
        options[name] = value
    return options


def launch_options(command: Command) -> Command:
    """Add the shared launch options, ``--config`` and ``-- EXTRA`` to a command."""
    command = click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- EXTRA…]")(
        command
    )
    command = click.option(
        "--allow-unvalidated",
        is_flag=True,
        envvar="ASCEND_V4_ALLOW_UNVALIDATED",
        help="Plan a launch that nobody has published.",
    )(command)
    command = click.option(
        "--config",
        metavar="FILE",
        envvar="ASCEND_V4_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=read_config,
        help="YAML file of launch options.",
    )(command)
    for name, (declaration, kind, text) in reversed(LAUNCH_OPTIONS.items()):
        command = click.option(
            *declaration.split(" "),
            name,
            type=kind,
            default=None,
            envvar=f"ASCEND_V4_{name.upper()}",
            help=text,
        )(command)
    return command


def json_option(command: Command) -> Command:
    """Add ``--json`` to a command, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")(command)


SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "variable",
    ParameterSource.DEFAULT_MAP: "file",
}


def refuse_key(extra: Sequence[str]) -> None:
    """Raise AscendV4Error (refused) for an API key among the arguments after ``--``."""
    if any(word.split("=")[0] == "--api-key" for word in extra):
        raise AscendV4Error(
            ExitCode.REFUSED,
            "key-in-arguments",
            "--api-key after -- would show the key in the process list and in the plan",
            "write it to a file of yours alone: --api-key-file FILE",
        )


def request_of(ctx: click.Context) -> LaunchRequest:
    """Return the launch request of a command's context, with each value's origin.

    Raises AscendV4Error (refused) for a key among the arguments.
    """
    from ascend_v4.core.request import LaunchRequest

    refuse_key(ctx.params["extra"])
    values = {name: ctx.params[name] for name in LAUNCH_OPTIONS if ctx.params[name] is not None}
    origins = {}
    for name in values:
        source = ctx.get_parameter_source(name)
        origins[name] = SOURCES.get(source, "profile") if source else "profile"
    return LaunchRequest(
        **values,
        extra=tuple(ctx.params["extra"]),
        allow_unvalidated=ctx.params["allow_unvalidated"],
        origins=origins,
    )
