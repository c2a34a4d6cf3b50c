"""Runs under the engine's own interpreter: parse and validate one ``vllm serve``, start nothing.

Takes the arguments after ``vllm`` and prints one JSON object on its last line:
``{"stage": "ok"|"import"|"parse"|"config", "message": …}``.
Imports nothing of ascend_v4, which isn't installed where the engine is.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any


def parser_of() -> tuple[Any, Any]:
    """Return the release's ``serve`` command and the parser that holds it."""
    from vllm.entrypoints.cli import serve

    try:
        from vllm.utils.argparse_utils import (
            FlexibleArgumentParser,
        )
    except ImportError:
        from vllm.utils import FlexibleArgumentParser
    command = serve.ServeSubcommand()
    parser = FlexibleArgumentParser(prog="vllm")
    command.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    return command, parser


def configure(args: Any) -> None:
    """Build the engine configuration, which runs the platform's start-up checks."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    if getattr(args, "model_tag", None) is not None:
        args.model = args.model_tag
    AsyncEngineArgs.from_cli_args(args).create_engine_config()


def judge(argv: list[str]) -> dict[str, str]:
    """Return how far the engine's own checks let the arguments come."""
    try:
        command, parser = parser_of()
    except Exception as error:
        return {"stage": "import", "message": f"{type(error).__name__}: {error}"}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_args(argv)
            command.validate(args)
    except SystemExit:
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        return {"stage": "parse", "message": lines[-1] if lines else "refused"}
    except Exception as error:
        return {"stage": "parse", "message": f"{type(error).__name__}: {error}"}
    try:
        configure(args)
    except Exception as error:
        return {"stage": "config", "message": f"{type(error).__name__}: {error}"}
    return {"stage": "ok", "message": ""}


if __name__ == "__main__":
    verdict = judge(sys.argv[1:])
    # Readers of logs cut lines that are longer than 16 KiB.
    verdict["message"] = verdict["message"][:8000]
    sys.stdout.write("\n" + json.dumps(verdict) + "\n")
