#!/usr/bin/env bash
# Made by ascend-v4 0.1.0 render bash; edit the topology and render again.
# flash: flash-fp4 on h200 with vllm 0.32.0 (recipe)
# Run on node node (127.0.0.1), every node's script at once: bash node.sh
# LOG_DIR=/var/log/ascend-v4 gives each process a log file of its own there.
set -euo pipefail

GRACE=75 # seconds
declare -A started=()

log_to() { # NAME: write to a log of its own in $LOG_DIR, if that is set
  if [[ -n ${LOG_DIR:-} ]]; then exec >>"$LOG_DIR/$1.log" 2>&1; fi
}

finish() { # STATUS: drain, then end what is left
  local pid alive
  trap '' TERM INT
  for pid in "${!started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for ((tenth = 0; tenth < GRACE * 10; tenth++)); do
    alive=
    for pid in "${!started[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then alive=1; fi
    done
    if [[ -z $alive ]]; then break; fi
    sleep 0.1
  done
  for pid in "${!started[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  exit "$1"
}

trap 'finish 143' TERM
trap 'finish 130' INT

server_env() {
  # set by nothing in this plan; an old export would spoil it
  unset OMP_NUM_THREADS OMP_PROC_BIND PYTORCH_CUDA_ALLOC_CONF \
    VLLM_ALLOW_LONG_MAX_MODEL_LEN VLLM_ATTENTION_BACKEND VLLM_BATCH_INVARIANT \
    VLLM_CPU_KVCACHE_SPACE VLLM_CPU_NUM_OF_RESERVED_CPU VLLM_CPU_OMP_THREADS_BIND \
    VLLM_DEEP_GEMM_WARMUP VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT \
    VLLM_DP_RANK VLLM_DP_RANK_LOCAL VLLM_DP_SIZE \
    VLLM_ENABLE_V1_MULTIPROCESSING VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS VLLM_MOE_DP_CHUNK_SIZE \
    VLLM_PLUGINS VLLM_PREFIX_CACHE_RETENTION_INTERVAL VLLM_RPC_TIMEOUT \
    VLLM_SERVER_DEV_MODE VLLM_TORCH_PROFILER_DIR VLLM_TORCH_PROFILER_WITH_STACK \
    VLLM_USE_BREAKABLE_CUDAGRAPH VLLM_USE_DEEP_GEMM VLLM_USE_FASTOKENS \
    VLLM_USE_MODELSCOPE VLLM_USE_V1 VLLM_USE_V2_MODEL_RUNNER \
    VLLM_WORKER_MULTIPROC_METHOD
}

# server-0-0: mixed on devices 0, 1, 2, 3
server_0_0() {
  log_to server-0-0
  server_env
  # the API server gives up on a loading engine after 600 s otherwise
  # (https://github.com/vllm-project/recipes/blob/8959cf64/models/deepseek-ai/DeepSeek-V4-Flash.yaml)
  export VLLM_ENGINE_READY_TIMEOUT_S=3600
  # the GPUs of this process (https://docs.vllm.ai/en/latest/configuration/env_vars/)
  export CUDA_VISIBLE_DEVICES='0,1,2,3'
  local args=(
    # the address to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --host 127.0.0.1
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 8000
    # the name clients ask for (https://docs.vllm.ai/en/latest/cli/serve/)
    --served-model-name deepseek-v4-flash
    # ranks that share one replica (https://docs.vllm.ai/en/latest/cli/serve/)
    --tensor-parallel-size 1
    # replicas, each with its own KV pool (https://docs.vllm.ai/en/latest/cli/serve/)
    --data-parallel-size 4
    # experts are spread over all ranks
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --enable-expert-parallel
    # the longest prompt and answer together, in tokens
    # (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-model-len 131072
    # requests at once for each replica (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-num-seqs 256
    # tokens of one step (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-num-batched-tokens 8192
    # share of device memory for weights, activations and KV
    # (https://docs.vllm.ai/en/latest/cli/serve/)
    --gpu-memory-utilization 0.9
    # tokens of one KV block (https://docs.vllm.ai/en/latest/cli/serve/)
    --block-size 256
    # stated, so that a changed default changes nothing
    # (https://docs.vllm.ai/en/latest/cli/serve/)
    --enable-prefix-caching
    # DeepSeek-V4's own chat encoding
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --tokenizer-mode deepseek_v4
    # reads the model's tool calls
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --tool-call-parser deepseek_v4
    # the tool parser works only with it
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --enable-auto-tool-choice
    # keeps thinking apart from the answer
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --reasoning-parser deepseek_v4
    # on TERM vLLM drops what is running unless it is told how many seconds to finish it; since
    # vLLM 0.18 (https://github.com/vllm-project/vllm/pull/34730)
    --shutdown-timeout 60
    # num_speculative_tokens: draft tokens of one step
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # method: the draft layers that the checkpoint carries
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --speculative-config '{"num_speculative_tokens": 1, "method": "mtp"}'
    # every launch of the vLLM recipe
    # (https://github.com/vllm-project/recipes/blob/8959cf64/models/deepseek-ai/DeepSeek-V4-Flash.yaml)
    --kv-cache-dtype fp8
  )
  exec vllm serve /models/flash "${args[@]}"
}

# Job control: each process in a group of its own, so Ctrl-C reaches this script alone.
set -m
server_0_0 &
started[$!]=server-0-0
set +m

# The first process to end, however it ends, ends the others: a deployment with a part
# missing serves nobody.
while :; do
  for pid in "${!started[@]}"; do
    if ! kill -0 "$pid" 2>/dev/null; then
      status=0
      wait "$pid" || status=$?
      echo "${started[$pid]} ended (status $status); stopping the rest" >&2
      finish "$status"
    fi
  done
  sleep 1 &
  wait $!
done
