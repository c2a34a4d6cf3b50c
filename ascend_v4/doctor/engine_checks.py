"""Checks of the installed engine against its release, from metadata alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.engine.locate import find_engine
from ascend_v4.errors import ExitCode
from ascend_v4.host.versions import satisfies
from ascend_v4.paths import engine_dir

from .check import Outcome
from .look import Look
from .packages import installed, read_build_info
from .version_checks import image_of

__all__ = ["cpu_checks", "engine_checks", "fit_outcome", "plan_check"]

WORKSPACE = "/vllm-workspace/vllm-ascend"
#: Finds without importing: torch alone takes seconds.
FINDS = (
    "import importlib.util as u, sys;sys.exit(not (u.find_spec('vllm') and u.find_spec('torch')))"
)
#: Column of a release row -> package. A spare column isn't compared.
PARTS = {
    "torch": "torch",
    "torch_npu": "torch-npu",
    "triton_ascend": "triton-ascend",
    "transformers": "transformers",
}


def engine_checks(look: Look) -> Iterator[Outcome]:
    """Yield presence, versions, chip of the build, Triton and known faults of the engine."""
    profile = look.profile or "ascend"
    program = find_engine(look.host, profile, engine_dir(look.host.env, profile))
    if program is None:
        yield absent(look, profile)
        return
    found = installed(program)
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    yield Outcome("engine-present", "ok", f"{program}: {versions or 'no metadata'}")
    release = actual_release(look, found)
    yield compare(look, found, release)
    if profile == "ascend":
        yield soc(look, program)
        yield triton(found, release)
    if release is not None:
        yield known_bad(release)


def absent(look: Look, profile: str) -> Outcome:
    """Return that there is no engine: outside a container that is how a host should be."""
    image = image_of(look)
    if profile == "cpu":
        fix = "ascend-v4 engine install --profile cpu"
    else:
        fix = f"run inside the image {image}" if image else "run inside the official image"
    said = "no vllm on PATH and no engine of ours"
    return Outcome("engine-present", "fail", said, (), {"fix": fix})


def actual_release(look: Look, found: Mapping[str, str]) -> Row | None:
    """Return the release row of what is installed, else that of the plan."""
    name = "vllm-ascend" if look.profile == "ascend" else "vllm"
    version = found.get(name, "").split("+")[0]
    rows = [r for r in catalog().table("releases") if r["engine"] == name]
    hit = next((r for r in rows if version in (r["version"], *r.get("aliases", []))), None)
    return hit or look.release


def compare(look: Look, found: Mapping[str, str], release: Row | None) -> Outcome:
    """Return whether the parts are those of the release, and the release that of the plan."""
    if release is None:
        return Outcome("engine-versions", "unknown", "the release is not in the catalog")
    wrong = [
        f"{package} {found[package]}, the release has {release[column]}"
        for column, package in PARTS.items()
        if release.get(column)
        and package in found
        and not satisfies(found[package], release[column])
    ]
    vllm = found.get("vllm")
    if look.profile == "ascend" and vllm and not satisfies(vllm.split("+")[0], release["vllm"]):
        wrong.insert(0, f"vllm {vllm}, the release is made for {release['vllm']}")
    missing = [
        package
        for column, package in PARTS.items()
        if look.profile == "ascend" and release.get(column) and package not in found
    ]
    values = {"image": image_of(look)}
    if wrong or missing:
        message = "; ".join([*wrong, *(f"{package} is missing" for package in missing)])
        fatal = any(text.startswith(("vllm ", "torch")) for text in wrong) or "torch-npu" in missing
        return Outcome("engine-versions", "fail" if fatal else "warn", message, (), values)
    planned = look.release
    if planned is not None and planned["version"] != release["version"]:
        said = f"{release['engine']} {release['version']} is installed, the plan is for "
        fix = f"add --engine-version {release['version']}, or use the image {image_of(look)}"
        return Outcome("engine-versions", "warn", f"{said}{planned['version']}", (), {"image": fix})
    return Outcome(
        "engine-versions", "ok", f"{release['engine']} {release['version']}, as published"
    )


def soc(look: Look, program: Path) -> Outcome:
    """Return whether vllm-ascend was built for the chip that is here."""
    built = read_build_info(program, look.host.path(WORKSPACE))
    if built is None or built.device_type is None:
        return Outcome("engine-soc", "unknown", "vllm-ascend does not tell what it was built for")
    said = f"built for {built.device_type} ({built.soc_version or 'unnamed SoC'})"
    if not look.family:
        return Outcome("engine-soc", "unknown", f"{said}; the chip of this host is not known")
    if built.device_type.lower() == look.family:
        return Outcome("engine-soc", "ok", said)
    message = f"{said}, but this host has {look.family.upper()}"
    return Outcome("engine-soc", "fail", message, (), {"image": image_of(look)})


def triton(found: Mapping[str, str], release: Row | None) -> Outcome:
    """Return whether upstream Triton lies over triton-ascend."""
    if "triton" in found and "triton-ascend" in found:
        said = f"triton {found['triton']} lies over triton-ascend {found['triton-ascend']}"
        wanted = str((release or {}).get("triton_ascend") or found["triton-ascend"])
        return Outcome("engine-triton", "fail", said, (), {"wanted": wanted})
    return Outcome(
        "engine-triton", "ok", f"triton-ascend {found.get('triton-ascend', 'is not installed')}"
    )


def known_bad(release: Row) -> Outcome:
    """Return the known faults of the release."""
    faults = release.get("known_bad", [])
    name = f"{release['engine']} {release['version']}"
    if not faults:
        return Outcome("engine-known-bad", "ok", f"none known of {name}")
    seen = tuple(f"{fault['what']} ({fault['source']})" for fault in faults)
    return Outcome("engine-known-bad", "warn", f"{name}: {len(faults)} known", seen)


def plan_check(look: Look) -> Iterator[Outcome]:
    """Yield whether the launch itself would be refused."""
    from ascend_v4.core.finding import refusing

    if look.refusal is not None:
        error = look.refusal
        fix = {"fix": error.next}
        yield Outcome("plan", "fail", error.message, (), fix, ExitCode.REFUSED)
        return
    if look.compiled is None:
        yield Outcome("plan", "unknown", "no plan: the chip is not known")
        return
    plan = look.compiled.plan
    broken = refusing(plan.notes)
    said = f"{plan.model_id} on {plan.chip} with {plan.engine} {plan.engine_version}"
    if broken:
        seen = tuple(f"{note.id}: {note.message}" for note in broken)
        fix = {"fix": broken[0].fix}
        yield Outcome("plan", "fail", f"{said}: {broken[0].message}", seen, fix, ExitCode.REFUSED)
    else:
        risks = tuple(f"{n.severity}: {n.message}" for n in plan.notes if n.severity != "info")
        yield Outcome("plan", "ok", f"{said}, {plan.validated.status}", risks)


def fit_outcome(look: Look) -> Iterator[Outcome]:
    """Yield whether weights and KV of the launch fit the devices, by the sizing of ``plan``."""
    from ascend_v4.sizing import fit_check

    if look.compiled is None:
        yield Outcome("plan-fits", "unknown", "no plan: the chip is not known")
        return
    found = [finding for finding in fit_check(look.compiled) if finding.severity != "info"]
    cannot = next((finding for finding in found if finding.severity == "error"), None)
    if cannot:
        yield Outcome(
            "plan-fits", "fail", cannot.message, (), {"fix": cannot.fix}, ExitCode.DOES_NOT_FIT
        )
    elif found:
        yield Outcome("plan-fits", "warn", found[0].message, (), {"fix": found[0].fix})
    else:
        yield Outcome("plan-fits", "ok", "nothing says that it can't fit")


def cpu_checks(look: Look) -> Iterator[Outcome]:
    """Yield whether the engine of the rehearsal is whole, and how many cores it will have."""
    directory = engine_dir(look.host.env, "cpu")
    program = find_engine(look.host, "cpu", directory)
    if program is None:
        yield Outcome("engine-imports", "fail", "the engine of the rehearsal is not installed")
    else:
        python = program.parent / "python"
        done = look.host.run([str(python), "-I", "-c", FINDS], timeout_s=look.tool_s)
        said = (
            f"{python} finds vllm and torch"
            if done.ok
            else f"{python}: {done.stderr.strip()[-200:]}"
        )
        yield Outcome("engine-imports", "ok" if done.ok else "fail", said)
    cores = (look.host.read_text("/proc/cpuinfo") or "").count("processor\t")
    if not cores:
        yield Outcome("cpu-cores", "unknown", "the cores of this host can't be counted")
    else:
        yield Outcome("cpu-cores", "ok" if cores > 1 else "warn", f"{cores} cores")
