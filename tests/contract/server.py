"""Runs under the engine's interpreter: imports one release once, then forks for each plan.

Started by ``client.py`` as a script, with the overlay and the stand-ins on
PYTHONPATH; it never imports the product or the tests. It talks JSON lines over the
socket whose descriptor is its only argument. A plan is checked in a child that
ends with it: vllm-ascend caches what it decided in module globals, so a second
plan in the same process would be judged by the first.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

WORKER_PREDICATES = (
    ("vllm_ascend.utils", "check_ascend_device_type"),
    ("vllm_ascend.device.device_config", "check_ascend_device_type"),
    ("vllm_ascend.utils", "enable_dsa_cp"),
    ("vllm_ascend.utils", "enable_dsa_cp_with_layer_shard"),
    ("vllm_ascend.utils", "enable_dsa_cp_with_o_proj_tp"),
)
# The class of os.environ: its methods are wrapped while the engine is imported.
ENVIRON: Any = type(os.environ)
OWN_FRAMES = ("_collections_abc>", "_collections_abc.py", "<frozen os>", "/os.py")
# Set by the harness for every child; a plan's own value would leave the cache.
FORCED = ("HOME", "VLLM_CACHE_ROOT", "PYTHONPATH")


class Reads:
    """Records which variables are read while the engine is imported, and their values.

    Left out: a variable that the import itself has set, which is no input, and
    what is only copied along with the whole environment.
    """

    def __init__(self) -> None:
        self.seen: dict[str, str | None] = {}
        self.own: set[str] = set()
        self.get = ENVIRON.__getitem__
        self.put = ENVIRON.__setitem__
        self.iterate = ENVIRON.__iter__
        self.copier: tuple[int, int] | None = None

    def __enter__(self) -> Reads:
        def get(environ: Any, key: Any) -> Any:
            try:
                value = self.get(environ, key)
            except KeyError:
                self._note(key, None)
                raise
            self._note(key, value)
            return value

        def put(environ: Any, key: Any, value: Any) -> None:
            if str(key) not in self.seen:
                self.own.add(str(key))
            self.put(environ, key, value)

        def iterate(environ: Any) -> Any:
            self.copier = _caller()
            yield from self.iterate(environ)

        ENVIRON.__getitem__ = get
        ENVIRON.__setitem__ = put
        ENVIRON.__iter__ = iterate
        return self

    def _note(self, key: Any, value: str | None) -> None:
        # ``dict(os.environ)`` and ``.items()`` read and iterate in one instruction.
        if str(key) not in self.own and _caller() != self.copier:
            self.seen.setdefault(str(key), value)

    def __exit__(self, *_: object) -> None:
        ENVIRON.__getitem__ = self.get
        ENVIRON.__setitem__ = self.put
        ENVIRON.__iter__ = self.iterate


def _caller() -> tuple[int, int]:
    """Return the frame and instruction outside os and collections that led here."""
    frame = sys._getframe(2)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_filename.endswith(OWN_FRAMES)
    ):
        frame = frame.f_back
    return id(frame), frame.f_lasti


class Launched(Exception):
    """Raised in place of starting a server: which way ``vllm serve`` would have gone."""

    def __init__(self, way: str, args: Any) -> None:
        super().__init__(way)
        self.way = way
        self.args_namespace = args


class Engine:
    """The imported release: its ``vllm serve`` command and its parser."""

    def __init__(self) -> None:
        import vllm.entrypoints.cli.serve as serve
        from vllm.platforms import current_platform

        try:
            from vllm.utils.argparse_utils import FlexibleArgumentParser
        except ImportError:
            from vllm.utils import FlexibleArgumentParser  # type: ignore[attr-defined,no-redef]
        self.platform = type(current_platform).__name__
        self.serve = serve
        self.command = serve.ServeSubcommand()
        self.parser = FlexibleArgumentParser(prog="vllm")
        self.command.subparser_init(self.parser.add_subparsers(required=True, dest="subparser"))
        # What every plan would import anyway, so that a fork does not pay for it.
        for name in (
            "vllm.engine.arg_utils",
            "vllm.model_executor.models.registry",
            "vllm.tokenizers",
            "vllm_ascend.ascend_config",
            "vllm_ascend.quantization",
            "transformers.models.auto.tokenization_auto",
        ):
            try:
                __import__(name)
            except ImportError:
                continue

    def parse(self, argv: list[str]) -> Any:
        """Parse and validate as ``vllm.entrypoints.cli.main`` does."""
        args = self.parser.parse_args(argv[1:])
        self.command.validate(args)
        return args

    def config(self, args: Any) -> Any:
        """Take the launch decisions of ``vllm serve`` and build the engine configuration."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext

        way = self._way(args)
        engine_args = AsyncEngineArgs.from_cli_args(args)
        if way == "run_multi_api_server" and hasattr(engine_args, "_api_process_count"):
            engine_args._api_process_count = args.api_server_count
            engine_args._api_process_rank = -1
        options = {"usage_context": UsageContext.OPENAI_API_SERVER}
        if way == "run_headless":
            options["headless"] = True
        return engine_args.create_engine_config(**options)

    def _way(self, args: Any) -> str:
        """Run the serve command up to the point where it would start processes."""
        for name in ("run_headless", "run_multi_api_server", "run_server", "run_dp_supervisor"):
            if hasattr(self.serve, name):
                setattr(self.serve, name, _launching(name))
        try:
            self.command.cmd(args)
        except Launched as launched:
            return launched.way
        raise RuntimeError("vllm serve returned without starting anything")


def _launching(name: str) -> Callable[..., Any]:
    def launch(args: Any, *_: Any, **__: Any) -> Any:
        raise Launched(name, args)

    return launch


def _inspect_in_a_fork(function: Callable[[], Any]) -> Any:
    """Stand in for vLLM's model-inspection subprocess: same isolation, no second import."""
    import cloudpickle  # type: ignore[import-not-found]

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result: Any = (True, function())
        except BaseException:
            result = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as stream:
            stream.write(cloudpickle.dumps(result))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        good, value = cloudpickle.loads(stream.read())
    os.waitpid(child, 0)
    if not good:
        raise RuntimeError(f"Error raised in subprocess:\n{value}")
    return value


def _worker_stage(config: Any) -> None:
    """Call what the workers would ask first, under this configuration."""
    import importlib

    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(config):
        for module, name in WORKER_PREDICATES:
            try:
                predicate = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError):
                continue
            predicate()
        if getattr(config, "kv_transfer_config", None) is not None:
            _connector(config)
        speculative = getattr(config, "speculative_config", None)
        if speculative is not None and speculative.method == "dspark":
            _dspark(config)


def _connector(config: Any) -> None:
    """Resolve the KV connector the plan names; an unknown name or module raises."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    KVConnectorFactory.get_connector_class(config.kv_transfer_config)


class _OwnChecksPassed(Exception):
    """Raised in place of the part of a constructor that needs a device."""


def _dspark(config: Any) -> None:
    """Run the DSpark proposer's own checks, which come before it touches the device."""
    try:
        from vllm_ascend.spec_decode.dspark_proposer import (  # type: ignore[import-not-found]
            AscendDSparkProposer,
        )
    except ImportError:
        return

    def stop(*_: Any, **__: Any) -> None:
        raise _OwnChecksPassed

    AscendDSparkProposer.__mro__[1].__init__ = stop
    try:
        AscendDSparkProposer(config, "cpu")
    except _OwnChecksPassed:
        return


def _with_a_servers_memory() -> None:
    """Answer 1 TiB for host memory: old releases weigh swap space against it.

    Servers with 8 or 16 NPUs have more; this machine's own is not what the plan is for.
    """
    import psutil  # type: ignore[import-untyped]

    here = psutil.virtual_memory()
    there = here._replace(total=1 << 40, available=1 << 40, free=1 << 40)
    psutil.virtual_memory = lambda: there


def _records() -> list[logging.LogRecord]:
    """Start to collect every log record, whatever handlers and levels the engine set."""
    records: list[logging.LogRecord] = []
    original = logging.Logger.handle

    def handle(logger: logging.Logger, record: logging.LogRecord) -> None:
        records.append(record)
        original(logger, record)

    logging.Logger.handle = handle  # type: ignore[method-assign]
    return records


def _environment(request: dict[str, Any], imported: dict[str, str]) -> None:
    """Make the environment of this plan: the plan's, then what importing forced on top."""
    wanted = {**request["base"], **request["env"], **imported}
    wanted.update({name: request["base"][name] for name in FORCED if name in request["base"]})
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _judge(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Take one plan through parse, config and worker; return the verdict's fields."""
    stage = "parse"
    try:
        args = engine.parse(request["argv"])
        if request["last_stage"] != "parse":
            stage = "config"
            config = engine.config(args)
            stage = "worker"
            if engine.platform == "NPUPlatform":
                _worker_stage(config)
    except BaseException as error:
        cause = f"{error}"
        trace = traceback.format_exc()
        return {
            "accepted": False,
            "stage": stage,
            "error_type": type(error).__name__,
            "message": cause,
            "traceback": trace,
        }
    return {"accepted": True, "stage": stage, "error_type": "", "message": "", "traceback": ""}


def _child(engine: Engine, request: dict[str, Any], imported: dict[str, str]) -> dict[str, Any]:
    """Check one plan in this forked process and return what the client gets."""
    start = time.monotonic()
    said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this process
    for descriptor in (1, 2):
        os.dup2(said.fileno(), descriptor)
    _environment(request, imported)
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = _inspect_in_a_fork
    _with_a_servers_memory()
    records = _records()
    verdict = _judge(engine, request)
    sys.stdout.flush()
    sys.stderr.flush()
    said.seek(0)
    output = said.read().decode("utf-8", "replace")
    if verdict["error_type"] == "SystemExit":
        verdict["message"] = next((x for x in reversed(output.splitlines()) if x.strip()), "")
    loud = [
        f"{record.levelname} {record.name}: {record.getMessage()}"
        for record in records
        if record.levelno >= logging.WARNING
    ]
    return {
        **verdict,
        "log": list(dict.fromkeys(loud)),
        "output": output[-20000:],
        "seconds": round(time.monotonic() - start, 3),
    }


def _fork_for(engine: Engine, request: dict[str, Any], imported: dict[str, str]) -> bytes:
    """Run ``_child`` in a fork; a child that hangs or dies still gives an answer."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setsid()
        try:
            answer = json.dumps(_child(engine, request, imported))
            with os.fdopen(writer, "w") as stream:
                stream.write(answer)
        finally:
            os._exit(0)
    os.close(writer)
    chunks, deadline = [], time.monotonic() + request["timeout"]
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(reader, 1 << 16) if ready else b""
        if not chunk:
            break
        chunks.append(chunk)
    os.close(reader)
    # Its own group, so that whatever it started goes with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return b"".join(chunks) or json.dumps({"died": True}).encode()


def main(descriptor: int) -> None:
    """Import the release, say so, then answer requests until the socket closes."""
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    stream = channel.makefile("rw", encoding="utf-8")
    before = dict(os.environ)
    start = time.monotonic()
    with Reads() as reads:
        try:
            engine = Engine()
            ready = {"ready": True, "platform": engine.platform, "error": ""}
        except BaseException:
            ready = {"ready": False, "platform": "", "error": traceback.format_exc()}
    imported = {key: value for key, value in os.environ.items() if before.get(key) != value}
    ready.update(seconds=round(time.monotonic() - start, 3), reads=reads.seen)
    stream.write(json.dumps(ready) + "\n")
    stream.flush()
    if not ready["ready"]:
        return
    for line in stream:
        answer = _fork_for(engine, json.loads(line), imported)
        stream.write(answer.decode() + "\n")
        stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
