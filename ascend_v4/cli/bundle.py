"""``ascend-v4 bundle``: pack for a site without a network, check there, install there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ascend_v4.cli.output import print_json, print_result, print_table
from ascend_v4.errors import AscendV4Error, ExitCode

if TYPE_CHECKING:
    from ascend_v4.host.system import Host
    from ascend_v4.weights.manifest import Manifest
    from ascend_v4.weights.request import Reporter

__all__ = ["command"]

QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress.")
JSON = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")


@click.group("bundle")
def command() -> None:
    """Pack weights, packages and the image's name for a site without a network."""


@command.command("create")
@click.argument("target", type=click.Path())
@click.option("--model", help="Catalog id or hub id, downloaded before.")
@click.option("--model-dir", type=click.Path(), help="Or the directory of the weights.")
@click.option("--no-weights", is_flag=True, help="Only the packages and the catalog.")
@click.option("--wheels/--no-wheels", default=True, show_default=True, help="Our own packages.")
@click.option("--platform", help="Of the target: aarch64, or a tag of pip.")
@click.option("--python-version", help="Of the target: 3.11.")
@click.option("--image", help="Reference of the engine's image, NAME:TAG@sha256:….")
@click.option("--image-archive", type=click.Path(), help="What `docker save` wrote.")
@click.option("--archive", is_flag=True, help="Also pack it all into TARGET.tar.")
@QUIET
@JSON
@click.pass_context
def create_command(
    ctx: click.Context,
    target: str,
    model: str | None,
    model_dir: str | None,
    no_weights: bool,
    wheels: bool,
    platform: str | None,
    python_version: str | None,
    image: str | None,
    image_archive: str | None,
    archive: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make a bundle in the directory TARGET and print where it is."""
    from ascend_v4.cli.planning import host_of
    from ascend_v4.weights.bundle import Order, create, pack
    from ascend_v4.weights.progress import reporter

    host, show = host_of(ctx), reporter(sys.stderr, quiet, as_json)
    place = Path(target).expanduser().absolute()
    order = Order(place, "", None, None, wheels, image, None, platform, python_version)
    if image_archive:
        order = replace(order, image_archive=Path(image_archive))
    if not no_weights:
        weights = weights_of(host, model, model_dir)
        manifest = checked(host, weights, show)
        order = replace(order, name=weights.name, weights=weights, manifest=manifest)
    create(order, host, show)
    made = pack(place) if archive else place
    if as_json:
        print_json({"bundle": str(made), "weights": order.name or None, "image": image})
    else:
        print_result(str(made))
    return 0


def weights_of(host: Host, model: str | None, model_dir: str | None) -> Path:
    """Return the directory of the weights to pack; raises AscendV4Error (usage) without one."""
    from ascend_v4.paths import model_dir as place_of
    from ascend_v4.weights.source import resolve_model

    if model_dir:
        return Path(model_dir).expanduser().absolute()
    if model:
        source = resolve_model(None, model)
        if source.hub == "local":
            raise needless()
        return place_of(host.env, source.repo)
    raise AscendV4Error(
        ExitCode.USAGE,
        "model-needed",
        "it isn't said which weights to pack",
        "ascend-v4 bundle create TARGET --model ID (or --model-dir, or --no-weights)",
    )


def needless() -> AscendV4Error:
    """Return the refusal of a bundle with the rehearsal checkpoint in it."""
    return AscendV4Error(
        ExitCode.REFUSED,
        "no-bundle-needed",
        "the rehearsal checkpoint is built where it is served, so it needs no bundle",
        "ascend-v4 bundle create TARGET --no-weights",
    )


def checked(host: Host, weights: Path, show: Reporter) -> Manifest:
    """Return the manifest of weights that were just checked in full."""
    import os

    from ascend_v4.weights.verify import deepen, judge, survey

    cores = len(os.sched_getaffinity(0))
    report = deepen(survey(weights, host.env), host.env, show, cores)
    if report.manifest is None and report.checkpoint == "rehearsal":
        raise needless()
    if report.manifest is None:
        raise AscendV4Error(
            ExitCode.WEIGHTS_UNVERIFIABLE,
            "weights-unverifiable",
            f"{weights} has no manifest, so a bundle of it could not be checked",
            f"ascend-v4 verify {weights} --deep --manifest fetch",
        )
    judge(report)
    return report.manifest


@command.command("verify")
@click.argument("bundle", type=click.Path(exists=True))
@QUIET
@JSON
def verify_command(bundle: str, quiet: bool, as_json: bool) -> int:
    """Compare every file of a bundle, or of its archive, with its checksum."""
    from ascend_v4.weights.progress import reporter

    check(Path(bundle), reporter(sys.stderr, quiet, as_json), "json" if as_json else "table")
    if not as_json:
        print_result(f"{bundle}: good")
    return 0


def check(bundle: Path, show: Reporter, form: str) -> None:
    """Print verdicts as ``json``, those that aren't good as ``table``, or none (``""``).

    Raises AscendV4Error: incomplete or corrupt.
    """
    from ascend_v4.weights.bundle import verify

    verdicts = verify(bundle, show)
    bad = [file for file in verdicts if file.verdict not in ("good", "extra")]
    if form == "json":
        print_json({"bundle": str(bundle), "files": [file.to_json() for file in verdicts]})
    elif form and bad:
        print_table(("verdict", "file"), [(file.verdict, file.path) for file in bad])
    if not bad:
        return
    damaged = any(file.verdict == "hash" for file in bad)
    raise AscendV4Error(
        ExitCode.WEIGHTS_CORRUPT if damaged else ExitCode.WEIGHTS_INCOMPLETE,
        "bundle-corrupt" if damaged else "bundle-incomplete",
        f"{bundle}: {len(bad)} of {len(verdicts)} files are not what they should be, "
        f"{bad[0].path} first",
        "copy the bundle again",
    )


@command.command("install")
@click.argument("bundle", type=click.Path(exists=True))
@click.option("--models", type=click.Path(), help="Where to (default: where serve looks).")
@QUIET
@JSON
@click.pass_context
def install_command(
    ctx: click.Context, bundle: str, models: str | None, quiet: bool, as_json: bool
) -> int:
    """Check a bundle, or its archive, and put its weights where serve looks.

    Prints the directory.
    """
    from ascend_v4.cli.planning import host_of
    from ascend_v4.paths import models_dir
    from ascend_v4.weights.install import install
    from ascend_v4.weights.progress import reporter

    show, source = reporter(sys.stderr, quiet, as_json), Path(bundle).absolute()
    if source.is_dir():
        check(source, show, "" if as_json else "table")
    where = Path(models).expanduser().absolute() if models else models_dir(host_of(ctx).env)
    place = install(source, where, show)
    if as_json:
        print_json({"directory": None if place is None else str(place)})
    elif place is not None:
        print_result(str(place))
    return 0
