"""A healthy A3 or A2 host, which each test makes sick in one way."""

from __future__ import annotations

import os

from ascend_v4.core.request import LaunchRequest
from ascend_v4.doctor.examine import examine
from tests.support.fakehost import FakeHost, npu_smi_text

BOARD = "\tNPU ID : 0\n\tSoftware Version : 25.3.rc1\n\tCompatibility : OK\n"
LIMITS = "Max open files  65535  65535  files\nMax locked memory  unlimited  unlimited  bytes\n"
#: Below the range that outgoing connections of this machine draw from.
PORT = 10000 + os.getpid() % 8000
ENV = {
    "HCCL_IF_BASE_PORT": str(PORT + 8100),
    "ASCEND_TOOLKIT_HOME": "/usr/local/Ascend/ascend-toolkit/latest",
    "ATB_HOME_PATH": "/usr/local/Ascend/nnal/atb/latest/atb",
}
PACKAGES = {
    "vllm": "0.23.0+empty",
    "vllm_ascend": "0.23.0.post1",
    "torch": "2.10.0+cpu",
    "torch_npu": "2.10.0.post4",
    "triton_ascend": "3.2.1",
    "transformers": "5.5.3",
}


def mapping(count, per_card):
    head = "NPU ID  Chip ID  Chip Logic ID  Chip Phy-ID  Chip Name\n"
    rows = (f"{n // per_card} {n % per_card} {n} {n} Ascend910\n" for n in range(count))
    return head + "".join(rows)


def answers(layout, count, per_card, board=BOARD):
    boards = {f"info -t board -i {card}": board for card in range(count // per_card)}
    return {"info": npu_smi_text(layout), "info -m": mapping(count, per_card), **boards}


def ascend_host(root, layout="a3-idle", count=16, per_card=2, env=(), delay_s=0.0):
    """Return a host with nothing wrong: driver, CANN, engine, weights, settings."""
    fake = FakeHost(root, env={**ENV, **dict(env)}).npus(layout, count)
    fake.npu_smi(answers(layout, count, per_card), delay_s=delay_s)
    for path in ("/usr/local/Ascend/driver/lib64/x.so", "/usr/local/dcmi/x", "/etc/hccn.conf"):
        fake.file(path)
    fake.file("/etc/hccl_rootinfo.json", "{}")
    place = "/usr/local/Ascend/ascend-toolkit/latest/aarch64-linux/ascend_toolkit_install.info"
    fake.file(place, f"version={release()['cann']}\n")
    fake.file("/proc/self/limits", LIMITS).file("/dev/shm/x")
    fake.file("/proc/meminfo", "MemAvailable: 900000000 kB\n")
    fake.file("/proc/sys/vm/swappiness", "0\n").file("/proc/sys/kernel/numa_balancing", "0\n")
    fake.file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    fake.file("/proc/sys/net/ipv4/ip_local_port_range", "32768\t59999\n")
    fake.file("/usr/lib64/libjemalloc.so.2")
    engine(fake, "A3" if layout.startswith("a3") else "A5" if layout.startswith("950") else "A2")
    weights(fake)
    return fake


def release():
    from ascend_v4.catalog.load import catalog

    return catalog().default_release("vllm-ascend")


def engine(fake, device_type, **versions):
    """Install an engine of metadata alone, ``vllm`` on PATH."""
    place = "/venv/lib/python3.11/site-packages"
    row = release()
    known = {**PACKAGES, "vllm": f"{row['vllm']}+empty", "vllm_ascend": row["version"]}
    for column in ("torch", "torch_npu", "triton_ascend", "transformers"):
        known[column] = row.get(column) or known[column]
    for name, version in {**known, **versions}.items():
        for old in (fake.root / place.lstrip("/")).glob(f"{name}-*.dist-info/METADATA"):
            old.unlink()
        if version:
            fake.file(f"{place}/{name}-{version}.dist-info/METADATA", f"Version: {version}\n")
    fake.file(
        f"{place}/vllm_ascend/_build_info.py",
        f"__soc_version__ = 'soc'\n__device_type__ = '{device_type}'\n",
    )
    fake.file("/venv/bin/python", "").file("/venv/bin/vllm", "")
    fake.program("vllm", f"#!{fake.root}/venv/bin/python\n")


def weights(fake):
    """Put a config.json where every Ascend checkpoint would be."""
    from ascend_v4.catalog.load import catalog

    for row in catalog().table("checkpoints"):
        for hub in row.get("hubs", []):
            name = hub["repo"].replace("/", "--")
            fake.file(f"/root/.local/share/ascend-v4/models/{name}/config.json", "{}")


def look(fake, **options):
    """Return the checks by id (the worst one where an id comes twice), and the report."""
    extra = {
        name: options.pop(name) for name in ("peers", "npu_peers", "tool_s") if name in options
    }
    report = examine(fake.host(), LaunchRequest(**{"port": PORT, **options}), **extra)
    order = ("ok", "unknown", "warn", "fail")
    checks = {}
    for check in report.checks:
        before = checks.get(check.id)
        if before is None or order.index(check.verdict) > order.index(before.verdict):
            checks[check.id] = check
    return checks, report


def not_ok(checks):
    return {name: check.verdict for name, check in checks.items() if check.verdict != "ok"}
