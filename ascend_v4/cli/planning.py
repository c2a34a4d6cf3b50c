"""From a command's options to a compiled plan: what env, plan, explain and serve share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import Compiled, compile_plan, refuse
from ascend_v4.host.system import Host
from ascend_v4.paths import models_dir

from .options import request_of
from .output import print_findings

if TYPE_CHECKING:
    from ascend_v4.core.request import LaunchRequest

__all__ = ["compiled_command", "compiled_or_refused", "compiled_request", "host_of"]


def host_of(ctx: click.Context) -> Host:
    """Return the host that a command looks at: the real one, or a test's."""
    return ctx.obj if isinstance(ctx.obj, Host) else Host()


def compiled_request(request: LaunchRequest, host: Host) -> Compiled:
    """Return the compiled plan of a request, refused plans included."""
    return compile_plan(request, catalog(), str(models_dir(host.env)))


def compiled_or_refused(request: LaunchRequest, host: Host) -> Compiled:
    """Return the compiled plan of a request, its notes told on stderr.

    Raises AscendV4Error (refused) when it breaks a rule that refuses a launch.
    """
    compiled = compiled_request(request, host)
    refuse(compiled.plan)
    print_findings(note for note in compiled.plan.notes if note.severity != "info")
    return compiled


def compiled_command(ctx: click.Context) -> Compiled:
    """Return the compiled plan of a command line; see :func:`compiled_or_refused`."""
    return compiled_or_refused(request_of(ctx), host_of(ctx))
