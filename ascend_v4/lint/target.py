"""What a script is judged for, and the facts of a launch seen from there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.compiler import lay_extra, subject_facts
from ascend_v4.core.launch import Launch, human_int
from ascend_v4.core.request import LaunchRequest
from ascend_v4.core.resolve import Subject, resolve
from ascend_v4.errors import AscendV4Error, ExitCode

from .launches import Launched
from .three import UNKNOWN, Unknown, find

__all__ = ["Target", "facts_of", "target_of"]

#: Facts that only the checkpoint tells.
OF_CHECKPOINT = (
    "checkpoint",
    "checkpoint_spec",
    "checkpoint_chips",
    "checkpoint_title",
    "checkpoint_gib",
    "family",
    "o_groups",
    "quantization",
    "nodes_needed",
)
#: Facts that the engine chooses itself where the launch doesn't say.
LEFT_TO_ENGINE = ("max_num_seqs", "max_num_batched_tokens", "block_size", "context")
NUMERIC = (*LEFT_TO_ENGINE, "tensor_parallel_size", "data_parallel_size", "port")
#: Flags that say that other processes belong to the launch.
SEVERAL_NODES = (
    "headless",
    "nnodes",
    "node-rank",
    "data-parallel-size-local",
    "data-parallel-start-rank",
    "data-parallel-rank",
    "data-parallel-address",
)
VISIBLE = ("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
ROLES = {"kv_producer": "prefill", "kv_consumer": "decode", "kv_both": "mixed"}


@dataclass(frozen=True)
class Target:
    """An engine release on a chip; ``model_known`` tells whether the checkpoint was named."""

    subject: Subject
    catalog: Catalog
    model_known: bool

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.subject.engine

    @property
    def version(self) -> str:
        """The release, as the catalog writes it."""
        return str(self.subject.release["version"])

    @property
    def chips(self) -> tuple[str, str]:
        """The chip's family and the variant asked for."""
        return str(self.subject.chip["id"]), self.subject.variant

    @property
    def strict_keys(self) -> bool:
        """Whether the release refuses an unknown ``additional_config`` key."""
        return "strict-additional-config" in self.subject.release.get("capabilities", [])

    def at(self, version: str) -> Target:
        """Return the same target on another release."""
        release = self.catalog.release(self.engine, version)
        subject = Subject(**{**vars(self.subject), "release": release})
        return Target(subject, self.catalog, self.model_known)


def target_of(
    catalog: Catalog,
    engine: str | None,
    version: str | None,
    chip: str | None,
    model: str | None = None,
) -> Target:
    """Return the target that the options name.

    Raises AscendV4Error (usage) for an unknown release, chip or model, or when neither
    chip nor engine is named.
    """
    if not chip and not engine:
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-chip",
            "the options name neither the chip nor the engine that the script is for",
            "add --chip a2, --chip a3, --chip h200 or another (ascend-v4 profiles --chips)",
        )
    profile = "cuda" if engine == "vllm" and not chip else None
    request = LaunchRequest(
        profile=profile, chip=chip, engine=engine, engine_version=version, model=model
    )
    return Target(resolve(request, catalog), catalog, model is not None)


def facts_of(launched: Launched, target: Target) -> dict[str, Any]:
    """Return the facts of a launch as the compiler's rules ask for them.

    What neither the launch nor the target tells is UNKNOWN or missing.
    """
    row = target.subject.checkpoint if target.model_known else guess(launched.model, target)
    subject = Subject(**{**vars(target.subject), "checkpoint": row or target.subject.checkpoint})
    facts = subject_facts(subject, LaunchRequest(), launched.model)
    facts |= dict.fromkeys(NUMERIC, 0)
    facts |= {"tensor_parallel_size": 1, "data_parallel_size": 1, "port": 8000}
    facts["devices"] = visible_devices(launched) or facts["devices"]
    flags = readable(launched.flags)
    launch = Launch(dict(launched.env), flags, launched.model)
    facts = lay_extra(launch, facts, (), target.catalog)
    facts |= {name: UNKNOWN for name in LEFT_TO_ENGINE if facts[name] == 0}
    if row is None:
        facts |= dict.fromkeys(OF_CHECKPOINT, UNKNOWN)
    facts |= shape_facts(launched, facts) | {"flag_open": bool(launched.open_args)}
    return facts


def readable(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with sizes such as ``128k`` as plain numbers."""
    flags = dict(flags)
    for name in ("max-model-len", "max-num-batched-tokens"):
        number = human_int(str(flags.get(name)))
        if number is not None:
            flags[name] = str(number)
    return flags


def visible_devices(launched: Launched) -> int:
    """Return how many devices the environment leaves visible, 0 where it doesn't say."""
    for name in VISIBLE:
        value = launched.env.get(name)
        if isinstance(value, str) and re.fullmatch(r"\d+(,\d+)*", value.replace(" ", "")):
            return len(value.split(","))
    return 0


def shape_facts(launched: Launched, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts on speculation, caching, topology and role that the flags tell."""
    flags, told = launched.flags, dict[str, Any]()
    config = flags.get("speculative-config")
    method = config.get("method", UNKNOWN) if isinstance(config, dict) else config
    if isinstance(method, Unknown) or (config is None and launched.open_args):
        told["spec"] = UNKNOWN
    tokens = config.get("num_speculative_tokens", UNKNOWN) if isinstance(config, dict) else None
    told["num_speculative_tokens"] = tokens
    told["prefix_caching"] = "no-enable-prefix-caching" not in flags
    told["fused_mc2"] = fused(facts)
    told["concurrency"] = None
    several = [name for name in SEVERAL_NODES if name in flags]
    role = find({"flag": flags}, "flag.kv-transfer-config.kv_role")
    told["role"] = UNKNOWN if isinstance(role, Unknown) else ROLES.get(str(role), "mixed")
    if several:
        told |= dict.fromkeys(("devices", "nodes", "topology", "device_memory_gib_total"), UNKNOWN)
    if role in ("kv_producer", "kv_consumer"):
        told["topology"] = "pd-disaggregated"
    if facts.get("ranks") is None:
        told |= dict.fromkeys(("ranks", "device_memory_gib_total"), UNKNOWN)
    if launched.open_args:
        numeric = ("tensor-parallel-size", "data-parallel-size")
        told |= {name.replace("-", "_"): UNKNOWN for name in numeric if name not in flags}
    return told


def fused(facts: dict[str, Any]) -> Any:
    """Return whether fused MC2 is asked for; the configuration key wins over the variable."""
    key = find(facts, "flag.additional-config.enable_fused_mc2")
    value = facts["env"].get("VLLM_ASCEND_ENABLE_FUSED_MC2") if key is None else key
    if isinstance(value, Unknown):
        return UNKNOWN
    return str(value).lower() not in ("none", "0", "false", "")


def guess(model: str, target: Target) -> Row | None:
    """Return the checkpoint that a hub id or a directory's name means, or None."""
    if found := target.catalog.checkpoint(model):
        return found
    tail = re.sub(r"[^a-z0-9]", "", model.rstrip("/").rsplit("/", 1)[-1].lower())
    for row in target.catalog.table("checkpoints"):
        repos = [hub["repo"].rsplit("/", 1)[-1] for hub in row.get("hubs", [])]
        if tail and tail in [re.sub(r"[^a-z0-9]", "", repo.lower()) for repo in repos]:
            return row
    return None
