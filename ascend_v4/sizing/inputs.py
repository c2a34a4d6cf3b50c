"""From a compiled launch to what sizing needs: the options as the engine would take them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.errors import AscendV4Error, ExitCode

from .caches import Layout
from .facts import UnmodelledError, kv_caches, kv_model, kv_release
from .pool import GIB, in_flight_tokens

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled

__all__ = ["SizingInput", "inputs_of", "memory_of_chip"]

#: GiB of a variant whose memory isn't that of its family's row.
VARIANT_GIB = {"a2:910b4": 32.0, "a5:950pr": 128.0}
PLAIN_BACKEND = "FLASHINFER_MLA_SPARSE_DSV4"
#: Seen with each release's own code: vllm 0.26.0 promotes, 0.32.0 and vllm-ascend raise.
HYBRID_OFF = (
    "without the hybrid KV cache manager vllm-ascend and vLLM 0.29 and later stop at start with "
    "DeepSeek-V4, and older vLLM keeps every window for the whole context: no figure is given"
)
PACKED_TYPES = ("auto", "fp8", "fp8_ds_mla", "fp8_e4m3", "None")


@dataclass(frozen=True)
class SizingInput:
    """Everything the arithmetic reads. Memory is GiB, lengths are tokens.

    ``model`` is a row of ``kv_models`` or one made from a config.json; ``release`` and
    ``caches`` are None where the KV arithmetic isn't known, ``unknown`` says why.
    ``available`` is the KV memory of a device in bytes where it was given.
    """

    model: Mapping[str, Any]
    checkpoint: Row
    engine: str
    version: str
    chip: str
    memory_gib: float | None
    devices: int
    tp: int
    dp: int
    pp: int
    spec: str
    block_size: int
    batched_tokens: int
    asynchronous: bool
    v2_runner: bool | None
    context: int
    utilization: float
    concurrency: int | None
    max_num_seqs: int | None
    release: Row | None = None
    caches: Row | None = None
    unknown: str = ""
    kv_type: str = "packed"
    fp4_indexer: bool = False
    available: int | None = None
    indexed: int | None = None
    comm_buffer_mb: int | None = None
    eager: bool = False

    @property
    def layout(self) -> Layout:
        """The caches' layout; only to be asked where the KV arithmetic is known."""
        assert self.release is not None and self.caches is not None
        return Layout(self.caches, self.release, self.block_size, self.kv_type, self.fp4_indexer)

    @property
    def in_flight(self) -> int:
        """Tokens that may be scheduled and not yet settled."""
        assert self.release is not None
        return in_flight_tokens(
            self.release,
            self.batched_tokens,
            self.asynchronous,
            self.pp,
            self.spec,
            self.v2_runner,
        )


def memory_of_chip(variant: str) -> float | None:
    """Return the GiB of one device of a chip or variant, None where it isn't known."""
    if variant in VARIANT_GIB:
        return VARIANT_GIB[variant]
    value = catalog().chip(variant).get("memory_gib")
    return float(value) if value else None


def default_batched_tokens(engine: str, version: str, memory_gib: float | None) -> int:
    """Return what the engine takes when nothing is asked.

    Source: vllm 0.32.0, vllm/engine/arg_utils.py (get_batch_defaults).
    """
    if engine == "vllm-ascend" or (memory_gib or 0) < 70:
        return 2048
    newer = catalog().rank("vllm", version) >= catalog().rank("vllm", "0.28.0")
    return 16384 if newer and (memory_gib or 0) >= 160 else 8192


def truthy(value: object) -> bool:
    """Whether a flag's value switches something on."""
    return value is True or str(value).lower() in ("true", "1")


def number(values: Mapping[str, Any], name: str, fallback: int, least: int = 1) -> int:
    """Return a flag's whole number; raises AscendV4Error (usage) where it is none."""
    value = values.get(name)
    if value is None:
        return fallback
    try:
        found = int(str(value))
    except ValueError:
        found = least - 1
    if found < least:
        flag = name.replace("_", "-").replace("context", "max-model-len")
        raise not_a_number(f"--{flag} {value}", f"a whole number from {least} on")
    return found


def share(value: object) -> float:
    """Return the share of a device's memory; raises AscendV4Error (usage) outside 0 to 1."""
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not 0 < found <= 1:
        raise not_a_number(
            f"--gpu-memory-utilization {value}",
            "a share of the device's memory, above 0 and up to 1",
        )
    return found


def not_a_number(given: str, wanted: str) -> AscendV4Error:
    """Return the error for a flag that must be a number."""
    return AscendV4Error(
        ExitCode.USAGE, "not-a-number", f"{given} must be {wanted}", "ascend-v4 plan --help"
    )


def pipeline(flags: Mapping[str, Any], model: Mapping[str, Any]) -> int:
    """Return the pipeline ranks; raises AscendV4Error (usage) for none or more than layers."""
    ranks, layers = number(flags, "pipeline-parallel-size", 1, 0), int(model.get("layers") or 1)
    if not 1 <= ranks <= layers:
        raise AscendV4Error(
            ExitCode.USAGE,
            "contradiction",
            f"--pipeline-parallel-size {ranks} can't split {layers} layers",
            f"--pipeline-parallel-size 1 to {layers}",
        )
    return ranks


def kv_type_of(flags: Mapping[str, Any]) -> tuple[str, str]:
    """Return packed, fp8 or bf16 by the launch's flags, and why it isn't known, if so."""
    asked = str(flags.get("kv-cache-dtype", "auto"))
    config = flags.get("attention-config")
    backend = config.get("backend") if isinstance(config, dict) else None
    plain = PLAIN_BACKEND in (str(flags.get("attention-backend")), str(backend))
    if asked in PACKED_TYPES:
        return ("fp8" if plain and asked.startswith("fp8") else "packed"), ""
    if asked in ("bfloat16", "bf16"):
        return "bf16", ""
    return "packed", f"--kv-cache-dtype {asked} has no known page size for DeepSeek-V4"


def ascend_odd(chip: str, version: str, flags: Mapping[str, Any]) -> str:
    """Return why the pages on an NPU aren't known, ``""`` where they are.

    An A5 stores fp8, from 0.29 on only where the launch says so.
    Source: vllm-ascend 0.30.0rc2, vllm_ascend/models/layer/attention/layer.py:191-217.
    """
    asked = str(flags.get("kv-cache-dtype", "auto"))
    if chip.partition(":")[0] != "a5":
        known = asked in ("auto", "bfloat16", "bf16")
    else:
        versions = catalog().versions("vllm-ascend")
        newer = versions.index(version) >= versions.index("0.29.0rc1")
        known = asked.startswith("fp8") or (asked == "auto" and not newer)
    return "" if known else f"--kv-cache-dtype {asked} has no known page size on {chip}"


def scheduling(compiled: Compiled, asynchronous: bool | None) -> bool:
    """Whether batches overlap: asked for, else as the launch's flags say, else yes."""
    if asynchronous is not None:
        return asynchronous
    flags = compiled.launch.flags
    if "no-async-scheduling" in flags:
        return False
    return truthy(flags.get("async-scheduling", True))


def given_memory(flags: Mapping[str, Any], available_gib: float | None) -> int | None:
    """Return the KV bytes of a device where they were given, by option or by flag."""
    if available_gib is not None:
        return int(available_gib * GIB)
    text = str(flags.get("kv-cache-memory-bytes", ""))
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    if not text:
        return None
    try:
        found = int(float(text[:-1]) * units[text[-1]]) if text[-1:] in units else int(text)
    except (ValueError, OverflowError):
        found = -1
    if found < 0:
        raise not_a_number(
            f"--kv-cache-memory-bytes {text}", "bytes, as 6G (2^30 each) or 6442450944"
        )
    return found


def read_config(directory: str | None) -> dict[str, Any] | None:
    """Return a model directory's config.json, None where there is no directory.

    Raises AscendV4Error (usage) for a directory without a readable configuration.
    """
    if not directory or not Path(directory).is_dir():
        return None
    path = Path(directory) / "config.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join(row["id"] for row in catalog().table("checkpoints"))
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-config",
            f"{directory} has no readable config.json, so its geometry isn't known; "
            f"the catalog knows {known}",
            "ascend-v4 plan --model flash",
        ) from error
    if not isinstance(value, dict):
        raise AscendV4Error(
            ExitCode.USAGE, "no-config", f"{path} holds no JSON object", f"edit {path}"
        )
    return value


def model_of(compiled: Compiled, model_dir: str | None) -> Mapping[str, Any]:
    """Return the geometry: of the directory's config.json, else of the family."""
    config = read_config(model_dir)
    if config is None:
        # The compiler takes an unknown hub id for the preview; V4.1 is another architecture.
        newer = "v4.1" in compiled.plan.model_id.lower()
        return kv_model("v4.1-flash" if newer else str(compiled.facts["family"]))
    from .generic import model_of_config

    return model_of_config(config, str(compiled.facts["family"]))


def replicas(facts: Mapping[str, Any], ranks: int) -> int:
    """Return the replicas over all nodes; a plan of several nodes may state one node's only."""
    dp = number(facts, "data_parallel_size", 1)
    whole = int(facts["devices"]) // ranks
    return whole if int(facts["nodes"]) > 1 and dp < whole else dp


def inputs_of(
    compiled: Compiled,
    model_dir: str | None = None,
    available_gib: float | None = None,
    asynchronous: bool | None = None,
) -> SizingInput:
    """Return the sizing input of a compiled launch.

    ``model_dir`` is a directory to read config.json and the index from. Raises
    AscendV4Error (usage) for a directory without a configuration, UnmodelledError for
    a family without a published one.
    """
    facts, flags, env = compiled.facts, compiled.launch.flags, compiled.launch.env
    model = model_of(compiled, model_dir)
    engine, version, chip = facts["engine"], facts["version"], compiled.plan.chip
    memory = memory_of_chip(chip)
    release, unknown = None, ""
    try:
        release = kv_release(engine, version)
    except UnmodelledError as error:
        unknown = error.message
    caches = kv_caches(engine, chip)
    kv_type, odd = kv_type_of(flags)
    if engine == "vllm-ascend":
        kv_type, odd = "packed", ascend_odd(chip, version, flags)
    if truthy(flags.get("disable-hybrid-kv-cache-manager", False)) and model["kind"] == "v4":
        odd = HYBRID_OFF
    block_size = number(facts, "block_size", caches["block_sizes"][0], 0)
    if model["kind"] == "v4" and compiled.plan.origins.get("block_size", "rule")[:4] == "rule":
        # Not asked for: vLLM itself takes the one its kernels have (platforms/interface.py).
        block_size = block_size if block_size in caches["block_sizes"] else caches["block_sizes"][0]
    if model["kind"] == "v4" and block_size not in caches["block_sizes"]:
        sizes = ", ".join(map(str, caches["block_sizes"]))
        odd = f"block size {block_size} has no kernel for DeepSeek-V4; there are {sizes}"
    usual = default_batched_tokens(engine, version, memory)
    batched = number(facts, "max_num_batched_tokens", usual)
    context = number(facts, "context", int(model.get("max_context") or 131072))
    if compiled.plan.profile == "cpu" and model["kind"] == "v4":
        # Without AMX tiles a CPU takes a whole prompt in one step (vllm 0.32.0,
        # vllm/platforms/cpu.py:516-531); the kinder case would be a false "fits".
        batched = max(batched, context)
    v2 = env.get("VLLM_USE_V2_MODEL_RUNNER")
    attention = flags.get("attention-config")
    fp4 = isinstance(attention, dict) and truthy(attention.get("use_fp4_indexer_cache"))
    buffer = str(env.get("HCCL_BUFFSIZE", ""))
    tp = number(facts, "tensor_parallel_size", 1)
    pp = pipeline(flags, model)
    from .weights import index_bytes

    return SizingInput(
        model=model,
        checkpoint=catalog().checkpoint(str(facts["checkpoint"])) or {},
        engine=engine,
        version=version,
        chip=chip,
        memory_gib=memory,
        devices=int(facts["devices"]),
        tp=tp,
        dp=replicas(facts, tp * pp),
        pp=pp,
        spec=str(facts.get("spec", "none")),
        block_size=block_size,
        batched_tokens=batched,
        asynchronous=scheduling(compiled, asynchronous),
        v2_runner=None if v2 is None else truthy(v2),
        context=context,
        utilization=share(facts.get("gpu_memory_utilization") or 0.9),
        concurrency=facts.get("concurrency"),
        max_num_seqs=facts.get("max_num_seqs"),
        release=None if unknown or odd else release,
        caches=caches,
        unknown=unknown or odd,
        kv_type=kv_type,
        fp4_indexer=fp4,
        available=given_memory(flags, available_gib),
        indexed=index_bytes(model_dir) if model_dir else None,
        comm_buffer_mb=int(buffer) if buffer.isdigit() else None,
        eager=truthy(flags.get("enforce-eager", False)),
    )
