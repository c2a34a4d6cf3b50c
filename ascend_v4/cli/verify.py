"""``ascend-v4 verify``: whether weights on disk are whole and what they should be."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ascend_v4.cli.output import print_findings, print_json, print_result, print_table, status
from ascend_v4.errors import AscendV4Error, ExitCode

if TYPE_CHECKING:
    from ascend_v4.host.system import Host
    from ascend_v4.weights.manifest import Manifest
    from ascend_v4.weights.request import Reporter, Request
    from ascend_v4.weights.verify import Report

__all__ = ["command"]


@click.command("verify")
@click.argument("directory", type=click.Path())
@click.option("--deep", is_flag=True, help="Compare every byte with its hash.")
@click.option("--no-stamp", is_flag=True, help="Read files again that were checked before.")
@click.option("--manifest", metavar="FILE|fetch", help="The hashes: a file, or asked of the hub.")
@click.option("--repair", is_flag=True, help="Fetch what is missing or damaged.")
@click.option("--model", help="What it should be: catalog id or hub id.")
@click.option("--profile", help="Also: is it for this profile.")
@click.option("--chip", help="Also: is it for this chip.")
@click.option("--engine-version", metavar="VERSION", help="Also: is it for this release.")
@click.option("--endpoint", help="Another address of the hub, or a mirror.")
@click.option("--token-file", type=click.Path(), help="File with the hub's token.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Files read at once (all cores).")
@click.option("--fingerprint", is_flag=True, help="Print one line that is equal on equal nodes.")
@click.option("--hosts", type=click.Path(), help="Compare with the nodes in this file, by ssh.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Every file with its verdict, as JSON.")
@click.pass_context
def command(
    ctx: click.Context, /, directory: str, fingerprint: bool, hosts: str | None, **options: object
) -> int:
    """Check weights: sizes, headers, index and kind; with --deep every byte.

    Exit code 0: all is well; 4 incomplete, 13 corrupt, 14 the wrong kind, 15 nothing
    to compare with.
    """
    from ascend_v4.cli.planning import host_of

    host, place = host_of(ctx), Path(directory).expanduser().absolute()
    if fingerprint or hosts:
        return compare_nodes(host, place, hosts, bool(options["as_json"]))
    return check(host, place, options)


def check(host: Host, directory: Path, options: dict[str, object]) -> int:
    """Check, repair if asked, print, and raise the error that the result deserves."""
    from ascend_v4.weights.progress import reporter
    from ascend_v4.weights.verify import judge

    refuse_unknown_words(options)
    as_json = bool(options["as_json"])
    show = reporter(sys.stderr, bool(options["quiet"]), as_json)
    report = look(host, directory, options, show)
    if options["repair"] and (report.bad() or not report.manifest):
        mend(host, directory, options, report, show)
        report = look(host, directory, {**options, "manifest": None}, show)
    show_report(report, as_json)
    wanted = wanted_checkpoint(options)
    judge(report, wanted, model=str(options["model"]) if options["model"] else None)
    refuse_unsuited(report, options)
    return 0


def refuse_unknown_words(options: dict[str, object]) -> None:
    """Raise AscendV4Error (usage) for a profile, chip, release or model that isn't known."""
    from ascend_v4.catalog.load import catalog, nearest
    from ascend_v4.cli.download import check_profile

    check_profile(str(options["profile"]) if options["profile"] else None)
    if options["chip"]:
        catalog().chip(str(options["chip"]))
    release_of(options)
    model = str(options["model"] or "")
    rows = catalog().table("checkpoints")
    known = [row["id"] for row in rows] + [name for row in rows for name in row.get("aliases", {})]
    if model and "/" not in model and model not in known:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-model",
            f"'{model}' is not a model this catalog knows. {nearest(model, known)}".rstrip(),
            "ascend-v4 profiles --models",
        )


def release_of(options: dict[str, object]) -> tuple[str, str] | None:
    """Return engine and version that are named, None where no version is."""
    from ascend_v4.catalog.load import catalog

    if not options["engine_version"]:
        return None
    chip, profile = options["chip"], profile_of(options)
    named = profile or (catalog().chip(str(chip))["profile"] if chip else "ascend")
    engine = "vllm-ascend" if named == "ascend" else "vllm"
    return engine, str(catalog().release(engine, str(options["engine_version"]))["version"])


def profile_of(options: dict[str, object]) -> str | None:
    """Return the profile that is named; ``auto`` names none, as the host isn't looked at."""
    return None if options["profile"] in (None, "auto") else str(options["profile"])


def look(host: Host, directory: Path, options: dict[str, object], show: Reporter) -> Report:
    """Return the report of a quick check, or of a deep one where that is asked for."""
    from ascend_v4.weights.verify import deepen, survey

    report = survey(directory, host.env, manifest_of(host, directory, options))
    if not options["deep"]:
        return report
    jobs = options["jobs"]
    count = jobs if isinstance(jobs, int) else len(os.sched_getaffinity(0))
    return deepen(report, host.env, show, count, not options["no_stamp"])


def manifest_of(host: Host, directory: Path, options: dict[str, object]) -> Manifest | None:
    """Return the manifest asked for, None for the one that is kept; a fetched one is kept."""
    asked = options["manifest"]
    if not asked:
        return None
    from ascend_v4.weights.known import fetch_manifest, read_manifest
    from ascend_v4.weights.manifest import save_manifest
    from ascend_v4.weights.place import sidecars

    if asked != "fetch":
        return read_manifest(str(asked), directory)
    manifest = fetch_manifest(directory, host.env, request_of(host, directory, options))
    save_manifest(manifest, directory, sidecars(directory, host.env)[0])
    return manifest


def request_of(host: Host, directory: Path, options: dict[str, object]) -> Request:
    """Return the download that would make the directory whole."""
    from ascend_v4.cli.download import read_token
    from ascend_v4.weights.known import repair_request

    file = options["token_file"]
    token = read_token(str(file) if file else None, host.env)
    texts = [options[name] for name in ("model", "endpoint")]
    model, endpoint = (str(text) if text else None for text in texts)
    request = repair_request(directory, host.env, model, endpoint, token)
    if request.source.hub == "huggingface" and not file:
        return replace(request, token=read_token(None, host.env, request.source.hub))
    return request


def mend(
    host: Host, directory: Path, options: dict[str, object], report: Report, show: Reporter
) -> None:
    """Remove what is damaged and fetch what is then missing."""
    from ascend_v4.cli.download import stoppable
    from ascend_v4.weights.download import download
    from ascend_v4.weights.manifest import load_manifest, save_manifest

    request = request_of(host, directory, options)
    if request.source.hub == "local":
        from ascend_v4.rehearsal.build import build_rehearsal

        show.status("building the rehearsal checkpoint again")
        for file in report.bad():
            (directory / file.path).unlink(missing_ok=True)
        build_rehearsal(directory)
        return
    before = load_manifest(directory)
    if before is not None:
        # Not complete any more: the download then stays with the commit that it is of.
        save_manifest(replace(before, complete=False), directory)
    for file in report.bad():
        show.status(f"{file.path}: {file.detail}; it is fetched again")
        (directory / file.path).unlink(missing_ok=True)
    with stoppable():
        download(request, host.env, show)


def wanted_checkpoint(options: dict[str, object]) -> str | None:
    """Return the catalog id that ``--model`` means, None where it names none."""
    if not options["model"]:
        return None
    from ascend_v4.catalog.load import catalog

    row = catalog().checkpoint(str(options["model"]))
    return str(row["id"]) if row else None


def refuse_unsuited(report: Report, options: dict[str, object]) -> None:
    """Raise AscendV4Error (wrong kind) if the weights aren't for what was named."""
    from ascend_v4.weights.verify import suits

    chip, profile = (str(options["chip"]) if options["chip"] else None), profile_of(options)
    why = suits(report.checkpoint, chip, profile, release_of(options))
    if why:
        raise AscendV4Error(ExitCode.WEIGHTS_WRONG_KIND, "wrong-weights", why, "ascend-v4 profiles")


def show_report(report: Report, as_json: bool) -> None:
    """Print the verdicts: all as JSON, else those that aren't good and one line in all."""
    from ascend_v4.weights.request import human

    if as_json:
        print_json(report_json(report))
        return
    odd = [file for file in report.files if file.verdict != "good"]
    if odd:
        print_table(("verdict", "file", "why"), [(f.verdict, f.path, f.detail) for f in odd])
    print_findings(report.findings)
    size = sum(file.size or 0 for file in report.files)
    kind = report.checkpoint or "a checkpoint this catalog doesn't know"
    how = "every byte checked" if report.deep and not odd else "headers and sizes checked"
    print_result(
        f"{report.directory}: {kind}, {len(report.files)} files, {human(size)}: "
        + (f"{len(odd)} not good" if odd else f"good ({how})")
    )
    if report.manifest is not None and not report.manifest.complete and not report.deep:
        status("note: its download never ended; --deep compares every byte")


def report_json(report: Report) -> dict[str, object]:
    """Return a report as ``--json`` prints it."""
    manifest = report.manifest
    return {
        "directory": str(report.directory),
        "checkpoint": report.checkpoint,
        "deep": report.deep,
        "repo": manifest.repo if manifest else None,
        "commit": manifest.commit if manifest else None,
        "bytes_read": report.read,
        "files_by_stamp": report.stamped,
        "files": [file.to_json() for file in report.files],
        "findings": [finding.to_json() for finding in report.findings],
    }


def compare_nodes(host: Host, directory: Path, hosts: str | None, as_json: bool) -> int:
    """Print this node's fingerprint, or compare it with other nodes'."""
    from ascend_v4.weights.nodes import compare, fingerprint

    if hosts is None:
        print_result(fingerprint(directory))
        return 0
    from ascend_v4.files import read_user_text

    lines = read_user_text(hosts, "--hosts").splitlines()
    names = [line.split("#")[0].strip() for line in lines]
    if not any(names):
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-nodes",
            f"--hosts: {hosts} names no node",
            f"write one node a line; without ssh run: ascend-v4 verify {directory} --fingerprint",
        )
    found = compare(host, directory, [name for name in names if name])
    if as_json:
        print_json([answer._asdict() for answer in found])
    else:
        rows = [(answer.node, answer.verdict, answer.fingerprint) for answer in found]
        print_table(("node", "verdict", "fingerprint"), rows)
    if any(answer.verdict == "different" for answer in found):
        raise AscendV4Error(
            ExitCode.WEIGHTS_CORRUPT,
            "nodes-differ",
            "the nodes don't hold the same weights",
            f"run on each of them: ascend-v4 verify {directory} --deep",
        )
    if any(answer.verdict == "unreachable" for answer in found):
        raise AscendV4Error(
            ExitCode.UNREACHABLE,
            "node-unreachable",
            "not every node gave its fingerprint",
            f"run there and compare: ascend-v4 verify {directory} --fingerprint",
        )
    return 0
