"""Published launches as data, each with the line of the public page that it was read from.

The flags are rewritten in one layout; names and values are the page's.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import Any

RELEASES = "https://github.com/vllm-project/vllm-ascend/blob"
PAGE = "docs/source/tutorials/models/DeepSeek-V4-Flash.md"
W8A8 = "/root/.cache/modelscope/hub/models/vllm-ascend/DeepSeek-V4-Flash-w8a8-mtp"
GRAPH = {"ascend_compilation_config": {"enable_npugraph_ex": True, "enable_static_kernel": False}}
USUAL = {"enable_cpu_binding": True, "multistream_overlap_shared_expert": True}
ENV = {
    "OMP_PROC_BIND": "false",
    "OMP_NUM_THREADS": "10",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "HCCL_BUFFSIZE": "1024",
    "TASK_QUEUE_ENABLE": "1",
    "HCCL_OP_EXPANSION_MODE": "AIV",
}
FLAGS = {
    "max-num-batched-tokens": 8192,
    "served-model-name": "dsv4",
    "gpu-memory-utilization": 0.9,
    "enable-expert-parallel": True,
    "tokenizer-mode": "deepseek_v4",
    "tool-call-parser": "deepseek_v4",
    "enable-auto-tool-choice": True,
    "reasoning-parser": "deepseek_v4",
    "model-loader-extra-config": {"enable_multithread_load": True, "num_threads": 128},
    "quantization": "ascend",
    "port": 8900,
    "compilation-config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
}
MTP = {"num_speculative_tokens": 1, "method": "mtp", "enforce_eager": True}
A2 = {
    "max-model-len": 133120,
    "max-num-seqs": 32,
    "data-parallel-size": 1,
    "tensor-parallel-size": 8,
    "no-enable-prefix-caching": True,
    "block-size": 128,
}
A3 = {
    "max-model-len": 1048576,
    "max-num-seqs": 64,
    "data-parallel-size": 4,
    "tensor-parallel-size": 4,
    "block-size": 32,
}


@dataclass(frozen=True)
class Tutorial:
    """One published launch."""

    source: str
    version: str
    chip: str
    env: dict[str, str]
    flags: dict[str, Any]
    model: str = W8A8
    extra_keys: dict[str, Any] = field(default_factory=dict)

    def script(self) -> str:
        """Return the launch as a shell script."""
        lines = ["#!/bin/bash", f"# {self.source}"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.env.items()]
        command = [f"vllm serve {self.model}"]
        for name, value in self.flags.items():
            if value is True:
                command.append(f"    --{name}")
            elif isinstance(value, dict):
                command.append(f"    --{name} '{json.dumps(value)}'")
            else:
                command.append(f"    --{name} {value}")
        return "\n".join([*lines, " \\\n".join(command)]) + "\n"


def config(**keys: Any) -> dict[str, Any]:
    """Return an additional_config of the tutorials with more keys."""
    return {**GRAPH, **USUAL, **keys}


TUTORIALS = {
    "0.13.0rc3-a3": Tutorial(
        f"{RELEASES}/v0.13.0rc3/docs/source/tutorials/DeepSeek-V4.md#L175",
        "0.13.0rc3",
        "a3",
        {
            "OMP_PROC_BIND": "false",
            "OMP_NUM_THREADS": "10",
            "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
            "ACL_OP_INIT_MODE": "1",
            "ASCEND_A3_ENABLE": "1",
            "USE_MULTI_BLOCK_POOL": "1",
            "HCCL_BUFFSIZE": "1024",
            "VLLM_ASCEND_ENABLE_FUSED_MC2": "1",
            "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1",
        },
        {
            "host": "0.0.0.0",
            "max-model-len": 65536,
            "max-num-batched-tokens": 8192,
            "served-model-name": "deepseek_v4",
            "gpu-memory-utilization": 0.9,
            "max-num-seqs": 16,
            "data-parallel-size": 2,
            "tensor-parallel-size": 8,
            "enable-expert-parallel": True,
            "quantization": "ascend",
            "port": 8005,
            "block-size": 128,
            "async-scheduling": True,
            "compilation-config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
            "speculative-config": {"num_speculative_tokens": 1, "method": "deepseek_mtp"},
            "additional-config": {
                "enable_cpu_binding": "true",
                "multistream_overlap_shared_expert": False,
            },
        },
        "/root/.cache/modelscope/hub/models/vllm-ascend/DeepSeek-V4-W8A8",
    ),
    "0.20.2rc1-a2": Tutorial(
        f"{RELEASES}/releases/v0.20.2rc/{PAGE}#L137",
        "0.20.2rc1",
        "a2",
        {**ENV, "VLLM_ASCEND_APPLY_DSV4_PATCH": "1", "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1"},
        {
            **FLAGS,
            **A2,
            "async-scheduling": True,
            "speculative-config": MTP,
            "additional-config": config(enable_dsa_cp=True),
        },
    ),
    "0.25.1rc1-a3": Tutorial(
        f"{RELEASES}/v0.25.1rc1/{PAGE}#L190",
        "0.25.1rc1",
        "a3",
        {**ENV, "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1"},
        {
            **FLAGS,
            **A3,
            "block-size": 128,
            "api-server-count": 1,
            "async-scheduling": True,
            "speculative-config": MTP,
            "additional-config": config(),
        },
    ),
    "0.26.0rc1-a2": Tutorial(
        f"vllm-ascend 0.26.0rc1 (sdist), {PAGE}:148",
        "0.26.0rc1",
        "a2",
        ENV,
        {
            **FLAGS,
            **A2,
            "speculative-config": MTP,
            "additional-config": config(enable_dsa_cp=True, enable_flashcomm1=True),
        },
    ),
    "0.28.0rc1-a3-dspark": Tutorial(
        f"vllm-ascend 0.28.0rc1 (sdist), {PAGE}:275",
        "0.28.0rc1",
        "a3",
        {**ENV, "VLLM_PREFIX_CACHE_RETENTION_INTERVAL": "4096"},
        {
            **FLAGS,
            **A3,
            "speculative-config": {
                "method": "dspark",
                "num_speculative_tokens": 7,
                "enforce_eager": True,
            },
            "additional-config": config(enable_dsa_cp=True),
        },
        "/path/to/DeepSeek-V4-Flash-0731-w8a8",
    ),
}

#: The A2 command of the pages called "latest" in August 2026: enable_dsa_cp without FlashComm1.
LATEST_A2 = Tutorial(
    f"{RELEASES}/182b75ea84/{PAGE}#L150",
    "0.27.1rc1",
    "a2",
    ENV,
    {
        **FLAGS,
        **A2,
        "speculative-config": MTP,
        "additional-config": config(enable_dsa_cp=True),
    },
)
