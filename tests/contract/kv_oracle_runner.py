"""Runs under the engine's interpreter: asks a release's own code about KV pools.

Started by ``kv_oracle.py`` with a release's overlay on PYTHONPATH. Reads cases as JSON
on stdin and writes the answers as JSON to the file given as the only argument. The layers'
classes are the release's own, made by their own ``__init__``, and so are their
``get_kv_cache_spec``, the grouping, the check and the printed concurrency; only the
configuration around them is a plain object.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

# A stand-in triton would make torch believe that there is one.
if os.environ.get("ASCEND_V4_CONTRACT_CHIP"):
    sys.modules["triton"] = None  # type: ignore[assignment]

# vLLM first: from 0.30 its platform plug-in must be found before torch is there.
import vllm  # noqa: F401
from vllm.platforms import current_platform  # noqa: F401

import torch  # isort: skip

FP8, BF16, U8, F32 = torch.float8_e4m3fn, torch.bfloat16, torch.uint8, torch.float32
ASCEND = bool(os.environ.get("ASCEND_V4_CONTRACT_CHIP"))
UPSTREAM = {
    "attention": (
        "vllm.models.deepseek_v4.attention",
        "vllm.model_executor.layers.deepseek_v4_attention",
    ),
    "compressor": (
        "vllm.models.deepseek_v4.compressor",
        "vllm.model_executor.layers.deepseek_compressor",
    ),
    "window": ("vllm.v1.attention.backends.mla.sparse_swa",),
}
PLUGIN = (
    "vllm_ascend.models.deepseek_v4.model",
    "vllm_ascend.models.deepseek_v4",
    "vllm_ascend.models.deepseek_v4.compressor",
    "vllm_ascend.models.deepseek_v4.indexer",
    "vllm_ascend.models.layer.attention.layer",
    "vllm_ascend.patch.worker.patch_deepseek_compressor",
)


def first(names: tuple[str, ...]) -> Any:
    """Return the first module of the names that there is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(str(names))


def find(name: str) -> Any:
    """Return what the plug-in calls so, wherever this release keeps it; None where it doesn't."""
    for module in PLUGIN:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if not module.startswith(str(error.name)):
                raise  # the module is there, and something that it needs isn't
            continue
        if found is not None:
            return found
    return None


def need(name: str) -> Any:
    """Return a class of the plug-in; raises AttributeError where no known module has it."""
    found = find(name)
    if found is None:
        raise AttributeError(f"no {name} in {', '.join(PLUGIN)}")
    return found


def prepare_plugin() -> None:
    """Let the stand-in of torch_npu's own module be asked for any class.

    ``vllm_ascend.patch.worker`` becomes a package without its ``__init__``, which applies
    every patch of the worker and needs the graph compiler of the image for it; a cache is
    described by one of them at most (0.20.2rc1, patch_deepseek_compressor.py).
    """
    standins = importlib.import_module("contract_standins")
    importlib.import_module("torch_npu")._C = standins.InertModule("torch_npu._C")
    worker = ModuleType("vllm_ascend.patch.worker")
    parent = importlib.import_module("vllm_ascend.patch")
    worker.__path__ = [f"{path}/worker" for path in parent.__path__]
    sys.modules[worker.__name__] = worker


def planning_functions() -> SimpleNamespace:
    """Return the pool's functions; up to 0.32 they lie in one module, from 0.33 on in two.

    From 0.33 on the groups are made first and handed to ``get_kv_cache_configs``, and the
    byte count takes the platform's builder; both are called here as before.
    """
    utils = importlib.import_module("vllm.v1.core.kv_cache_utils")
    try:
        plans = importlib.import_module("vllm.v1.core.kv_cache_planning")
    except ModuleNotFoundError:
        return SimpleNamespace(
            configs=utils.get_kv_cache_configs,
            need=utils._max_memory_usage_bytes_from_groups,
            printed=utils.get_max_concurrency_for_kv_cache_config,
        )
    builder = importlib.import_module("vllm.v1.core.kv_cache_config_builder")

    def configs(config: Any, specs: list[Any], memory: list[int]) -> Any:
        return plans.get_kv_cache_configs(
            config, specs, memory, plans.get_global_kv_cache_groups(config, specs)
        )

    def need(config: Any, groups: list[Any]) -> int:
        chosen = builder.get_kv_cache_config_builder(config)
        return int(plans._max_memory_usage_bytes_from_groups(chosen, config, groups))

    return SimpleNamespace(
        configs=configs, need=need, printed=utils.get_max_concurrency_for_kv_cache_config
    )


class Engine:
    """The release's classes and functions."""

    def __init__(self) -> None:
        if ASCEND:
            prepare_plugin()
            from vllm_ascend.utils import adapt_patch

            adapt_patch(is_global_patch=True)
        self.planning = planning_functions()
        self.config = importlib.import_module("vllm.config").VllmConfig
        self.pp = importlib.import_module("vllm.distributed.utils").get_pp_indices
        attention = first(UPSTREAM["attention"])
        self.main = need("DSAAttention") if ASCEND else self._main(attention)
        self.index = (
            need("AscendDeepseekV4IndexerCache") if ASCEND else attention.DeepseekV4IndexerCache
        )
        compressor = first(UPSTREAM["compressor"])
        self.state = (
            need("AscendCompressorStateCache") if ASCEND else compressor.CompressorStateCache
        )
        window = first(UPSTREAM["window"])
        self.window = need("AscendDeepseekV4SWACache") if ASCEND else window.DeepseekV4SWACache
        self.table = find("DSV4_BLOCK_SIZES")
        # Up to 0.26 a 4-bit indexer's key still reserves the 8-bit width.
        self.fp4_saves = "head_dim // 2" in inspect.getsource(attention)

    @staticmethod
    def _main(attention: Any) -> Any:
        for name in ("DeepseekV4MLAAttention", "DeepseekV4Attention"):
            found = getattr(attention, name, None)
            if found is not None and hasattr(found, "get_kv_cache_spec"):
                return found
        raise AttributeError("no attention class that describes a cache")


class Config(SimpleNamespace):
    """A configuration that computes with the release's own properties."""

    def __getattr__(self, name: str) -> Any:
        attribute = inspect.getattr_static(ENGINE.config, name, None)
        if isinstance(attribute, property) and attribute.fget is not None:
            return attribute.fget(self)
        raise AttributeError(name)


def config_of(case: dict[str, Any]) -> Config:
    """Return the configuration of a case."""
    model = SimpleNamespace(
        max_model_len=case["context"],
        original_max_model_len=case["context"],
        dtype=BF16,
        hf_config=SimpleNamespace(model_type="deepseek_v4"),
        supports_kv_cache_grouping=False,
    )
    cache = SimpleNamespace(
        block_size=case["block_size"],
        cache_dtype=plain_dtype() if ASCEND else case["kv_type"].replace("packed", "fp8_ds_mla"),
        num_gpu_blocks_override=None,
        prefix_cache_retention_interval=None,
        enable_prefix_caching=True,
        mamba_cache_mode="none",
    )
    cache.get_resolved_kv_cache_layout = resolved_layout
    parallel = SimpleNamespace(
        pipeline_parallel_size=case["pipeline"],
        tensor_parallel_size=case.get("tensor", 1),
        decode_context_parallel_size=1,
        prefill_context_parallel_size=1,
    )
    return Config(
        model_config=model,
        cache_config=cache,
        parallel_config=parallel,
        scheduler_config=SimpleNamespace(
            max_num_batched_tokens=case["max_num_batched_tokens"],
            async_scheduling=case["asynchronous"],
            disable_hybrid_kv_cache_manager=case.get("no_hybrid", False),
        ),
        attention_config=SimpleNamespace(
            hisparse_config=None,
            use_fp4_indexer_cache=case["fp4_indexer"],
            resolve_indexer_kv_dtype=lambda default: default,
        ),
        compilation_config=SimpleNamespace(static_forward_context={}),
        quant_config=None,
        additional_config={},
        device_config=SimpleNamespace(device_type="npu" if ASCEND else "cuda"),
        kv_transfer_config=None,
        kv_events_config=None,
        speculative_config=None,
        use_v2_model_runner=case["v2_runner"],
        num_prefill_lookahead_tokens=0,
    )


def plain_dtype() -> str:
    """Return the KV type of a chip: an A5 stores fp8, which its launches say from 0.29 on."""
    return "fp8" if os.environ.get("ASCEND_V4_CONTRACT_CHIP") == "a5" else "auto"


def resolved_layout() -> Any:
    """Return the layout that the DeepSeek-V4 back-ends declare."""
    from vllm.v1.kv_cache_layout import KVCacheLayout

    return KVCacheLayout.BLHNC


def make(kind: Any, config: Config, **arguments: Any) -> Any:
    """Return a layer's cache made by its own ``__init__``, told about ``config``."""
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__)
        if hasattr(module, "get_current_vllm_config"):
            module.get_current_vllm_config = lambda: config  # type: ignore[union-attr]
    known = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in arguments.items() if name in known})


def bare(kind: Any, **attributes: Any) -> Any:
    """Return an attention layer without its weights: only what its description reads."""
    concrete = type("Bare", (kind,), dict.fromkeys(getattr(kind, "__abstractmethods__", ())))
    layer = concrete.__new__(concrete)
    layer.__dict__.update(attributes)
    return layer


def layer_caches(
    case: dict[str, Any], config: Config, number: int, ratio: int, draft: bool
) -> dict[str, Any]:
    """Return the caches of one layer by name, each able to describe itself."""
    chip = os.environ.get("ASCEND_V4_CONTRACT_CHIP", "")
    row = {"packed": U8, "fp8": FP8, "bf16": BF16}[case["kv_type"]]
    if ASCEND:
        row = FP8 if chip == "a5" else BF16
    table = ENGINE.table[case["block_size"]][0] if ENGINE.table else [128, 128, 8, 32]
    name = f"mtp.{number}" if draft else f"layers.{number}"
    cache = config.cache_config
    made = {
        f"{name}.swa_cache": make(
            ENGINE.window,
            config,
            head_dim=512,
            window_size=128,
            dtype=row,
            prefix=f"{name}.swa",
            cache_config=cache,
        )
    }
    if ratio <= 1:
        return made
    kv_type = plain_dtype() if ASCEND else cache.cache_dtype
    made[f"{name}.attn"] = bare(
        ENGINE.main,
        compress_ratio=ratio,
        head_dim=512,
        head_size=512,
        kv_cache_dtype=kv_type,
        kv_cache_torch_dtype=row,
    )
    if ratio == 4:
        key = {"head_dim": 128, "dtype": FP8 if chip == "a5" else torch.int8}
        if not ASCEND:
            key = {"head_dim": 68 if case["fp4_indexer"] and ENGINE.fp4_saves else 132, "dtype": U8}
        made[f"{name}.index"] = make(
            ENGINE.index,
            config,
            prefix=f"{name}.index",
            cache_config=cache,
            compress_ratio=ratio,
            **key,
        )
    overlap = 2 if ratio == 4 else 1
    for part, dim in (("state", 512), ("index_state", 128)):
        if ratio == 4 or part == "state":
            made[f"{name}.{part}"] = make(
                ENGINE.state,
                config,
                state_dim=2 * overlap * dim,
                dtype=F32,
                compress_ratio=ratio,
                block_size=table[2 if ratio == 4 else 3],
                prefix=f"{name}.{part}",
            )
    return made


def rank_specs(case: dict[str, Any], config: Config) -> list[dict[str, Any]]:
    """Return the descriptions of each pipeline rank's caches."""
    ratios, ranks = case["ratios"], []
    config.compilation_config.static_forward_context.clear()
    for rank in range(case["pipeline"]):
        start, end = ENGINE.pp(len(ratios), rank, case["pipeline"])
        layers = {}
        for number in range(start, end):
            layers.update(layer_caches(case, config, number, ratios[number], False))
        if rank == case["pipeline"] - 1:
            for number in range(case["drafts"]):
                layers.update(layer_caches(case, config, number, 0, True))
        ranks.append({name: layer.get_kv_cache_spec(config) for name, layer in layers.items()})
    return ranks


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """Return what the release says about a case; ``starts`` is its start-up check."""
    config = config_of(case)
    specs = rank_specs(case, config)
    available = [case["available"]] * len(specs)
    # As many tokens as the check asks for at most; one rank's answer stands for the log.
    roomy = ENGINE.planning.configs(config, specs, [1 << 50] * len(specs))
    starts = True
    try:
        configs = ENGINE.planning.configs(config_of(case), rank_specs(case, config), available)
    except ValueError as error:
        if "KV cache is needed" not in " ".join(
            str(error).split()
        ) and "No available memory" not in str(error):
            raise
        starts, configs = False, []
    groups = [config_one.kv_cache_groups for config_one in roomy]
    need = [ENGINE.planning.need(config, part) for part in groups]
    said: dict[str, Any] = {"starts": starts, "need": max(need)}
    said["per_request"] = sum(
        -(
            -group.kv_cache_spec.max_memory_usage_bytes(config)
            // group.kv_cache_spec.page_size_bytes
        )
        for group in groups[0]
    )
    if configs:
        printed = ENGINE.planning.printed(config, configs[0])
        said["num_blocks"] = configs[0].num_blocks
        said["log_max_concurrency"] = printed
        said["log_kv_tokens"] = int(printed * case["context"])
        said["groups"] = [len(group.layer_names) for group in configs[0].kv_cache_groups]
    return said


def main() -> None:
    """Answer every case; a case that the engine refuses says how."""
    answers = []
    for case in json.load(sys.stdin):
        try:
            answers.append(answer(case))
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        json.dump(answers, out)


ENGINE = Engine()
if __name__ == "__main__":
    main()
