#!/usr/bin/env bash
# Made by ascend-v4 0.1.0 render bash; edit the topology and render again.
# flash: flash-w8a8-mtp on a3 with vllm-ascend 0.23.0.post1 (recipe)
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
  unset ACL_OP_INIT_MODE ASCEND_ENABLE_USE_FABRIC_MEM ASCEND_LAUNCH_BLOCKING \
    DYNAMIC_EPLB EXPERT_MAP_RECORD FLA_USE_FAST_OPS \
    HCCL_ALGO HCCL_DETERMINISTIC HCCL_INTRA_PCIE_ENABLE \
    HCCL_INTRA_ROCE_ENABLE LCCL_DETERMINISTIC MSMONITOR_USE_DAEMON \
    PYTORCH_CUDA_ALLOC_CONF TRITON_ALL_BLOCKS_PARALLEL VLLM_ALLOW_LONG_MAX_MODEL_LEN \
    VLLM_ASCEND_BALANCE_SCHEDULING VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE VLLM_ASCEND_ENABLE_MLAPO \
    VLLM_ASCEND_ENABLE_NZ VLLM_ASCEND_FLASHCOMM2_PARALLEL_SIZE VLLM_ASCEND_FUSION_OP_TRANSPOSE_KV_CACHE_BY_BLOCK \
    VLLM_ATTENTION_BACKEND VLLM_BATCH_INVARIANT VLLM_CPU_NUM_OF_RESERVED_CPU \
    VLLM_DEEP_GEMM_WARMUP VLLM_DISABLE_SHARED_EXPERTS_STREAM VLLM_DP_MASTER_IP \
    VLLM_DP_MASTER_PORT VLLM_DP_RANK VLLM_DP_RANK_LOCAL \
    VLLM_DP_SIZE VLLM_ENABLE_V1_MULTIPROCESSING VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS \
    VLLM_MOE_DP_CHUNK_SIZE VLLM_PLUGINS VLLM_PREFIX_CACHE_RETENTION_INTERVAL \
    VLLM_RPC_TIMEOUT VLLM_SERVER_DEV_MODE VLLM_TORCH_PROFILER_DIR \
    VLLM_TORCH_PROFILER_WITH_STACK VLLM_USE_BREAKABLE_CUDAGRAPH VLLM_USE_DEEP_GEMM \
    VLLM_USE_FASTOKENS VLLM_USE_MODELSCOPE VLLM_USE_V1 \
    VLLM_USE_V2_MODEL_RUNNER VLLM_WORKER_MULTIPROC_METHOD
}

# server-0-0: mixed on devices 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
server_0_0() {
  log_to server-0-0
  server_env
  # loads the DeepSeek-V4 patches of 0.13.0rc3; no later release reads it
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.13.0rc3/vllm_ascend/patch/platform/__init__.py#L28)
  export USE_MULTI_BLOCK_POOL=1
  # off: it is published for prefill nodes of A3 alone, and on A2 and A5 it does nothing but
  # switch the shared-expert overlap off
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
  export VLLM_ASCEND_ENABLE_FUSED_MC2=0
  # vllm-ascend binds CPUs itself
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  export OMP_PROC_BIND=false
  # the tutorials of every release
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  export OMP_NUM_THREADS=10
  # less fragmentation of device memory
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  export PYTORCH_NPU_ALLOC_CONF=expandable_segments:True
  # room for expert-parallel dispatch of a full batch; MiB for each communicator
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  export HCCL_BUFFSIZE=1024
  # operators are queued by a second thread
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  export TASK_QUEUE_ENABLE=1
  # collectives are expanded on the vector cores
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  export HCCL_OP_EXPANSION_MODE=AIV
  # sequence parallel MoE; enable_dsa_cp is a start-up error without it
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/vllm_ascend/utils.py#L1515)
  export VLLM_ASCEND_ENABLE_FLASHCOMM1=1
  # the API server gives up on a loading engine after 600 s otherwise; the nightly CI allows 3000
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
  export VLLM_ENGINE_READY_TIMEOUT_S=3600
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES='0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15'
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the address to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --host 127.0.0.1
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 8000
    # the name clients ask for (https://docs.vllm.ai/en/latest/cli/serve/)
    --served-model-name deepseek-v4-flash
    # ranks that share one replica (https://docs.vllm.ai/en/latest/cli/serve/)
    --tensor-parallel-size 4
    # replicas, each with its own KV pool (https://docs.vllm.ai/en/latest/cli/serve/)
    --data-parallel-size 4
    # one API server for all replicas, as in the tutorial
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L238)
    --api-server-count 1
    # experts are spread over all ranks
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --enable-expert-parallel
    # W8A8 and W4A8 weights need it said
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --quantization ascend
    # the longest prompt and answer together, in tokens
    # (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-model-len 135168
    # requests at once for each replica (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-num-seqs 64
    # tokens of one step (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-num-batched-tokens 10240
    # share of device memory for weights, activations and KV
    # (https://docs.vllm.ai/en/latest/cli/serve/)
    --gpu-memory-utilization 0.9
    # tokens of one KV block (https://docs.vllm.ai/en/latest/cli/serve/)
    --block-size 128
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
    # cudagraph_mode: graphs for decode steps only
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}'
    # the next step is prepared while this one runs
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --async-scheduling
    # reads shards ahead
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --safetensors-load-strategy prefetch
    # enable_multithread_load: loads shards by several threads
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # num_threads: the tutorials of every release
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --model-loader-extra-config '{"enable_multithread_load": true, "num_threads": 128}'
    # num_speculative_tokens: draft tokens of one step
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # method: the draft layers that the checkpoint carries
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # enforce_eager: the draft runs without graphs
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --speculative-config '{"num_speculative_tokens": 1, "method": "mtp", "enforce_eager": true}'
    # enable_cpu_binding: pins worker threads near their NPU
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # ascend_compilation_config.enable_npugraph_ex: the tutorials of every release
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # ascend_compilation_config.enable_static_kernel: the tutorials of every release
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    # multistream_overlap_shared_expert: the shared expert runs beside the routed ones
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --additional-config '{"enable_cpu_binding": true, "ascend_compilation_config": {"enable_npugraph_ex": true, "enable_static_kernel": false}, "multistream_overlap_shared_expert": true}'
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
