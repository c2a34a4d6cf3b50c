#!/usr/bin/env bash
# Made by ascend-v4 0.1.0 render compose; edit the topology and render again.
# flash-1p1d: flash-w8a8-mtp on a3 with vllm-ascend 0.23.0.post1 (recipe)
# Runs inside the container of compose.d0.yaml.
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

decode_env() {
  # set by nothing in this plan; an old export would spoil it
  unset ACL_OP_INIT_MODE ASCEND_ENABLE_USE_FABRIC_MEM ASCEND_LAUNCH_BLOCKING \
    DYNAMIC_EPLB EXPERT_MAP_RECORD FLA_USE_FAST_OPS \
    HCCL_ALGO HCCL_DETERMINISTIC HCCL_INTRA_PCIE_ENABLE \
    HCCL_INTRA_ROCE_ENABLE LCCL_DETERMINISTIC MSMONITOR_USE_DAEMON \
    PYTORCH_CUDA_ALLOC_CONF TRITON_ALL_BLOCKS_PARALLEL VLLM_ALLOW_LONG_MAX_MODEL_LEN \
    VLLM_ASCEND_BALANCE_SCHEDULING VLLM_ASCEND_ENABLE_FLASHCOMM1 VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE \
    VLLM_ASCEND_ENABLE_MLAPO VLLM_ASCEND_ENABLE_NZ VLLM_ASCEND_FLASHCOMM2_PARALLEL_SIZE \
    VLLM_ASCEND_FUSION_OP_TRANSPOSE_KV_CACHE_BY_BLOCK VLLM_ATTENTION_BACKEND VLLM_BATCH_INVARIANT \
    VLLM_CPU_NUM_OF_RESERVED_CPU VLLM_DEEP_GEMM_WARMUP VLLM_DISABLE_SHARED_EXPERTS_STREAM \
    VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT VLLM_DP_RANK \
    VLLM_DP_RANK_LOCAL VLLM_DP_SIZE VLLM_ENABLE_V1_MULTIPROCESSING \
    VLLM_MOE_DP_CHUNK_SIZE VLLM_PLUGINS VLLM_PREFIX_CACHE_RETENTION_INTERVAL \
    VLLM_SERVER_DEV_MODE VLLM_TORCH_PROFILER_DIR VLLM_TORCH_PROFILER_WITH_STACK \
    VLLM_USE_BREAKABLE_CUDAGRAPH VLLM_USE_DEEP_GEMM VLLM_USE_FASTOKENS \
    VLLM_USE_MODELSCOPE VLLM_USE_V1 VLLM_USE_V2_MODEL_RUNNER \
    VLLM_WORKER_MULTIPROC_METHOD
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
  # the API server gives up on a loading engine after 600 s otherwise; the nightly CI allows 3000
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
  export VLLM_ENGINE_READY_TIMEOUT_S=3600
  # the address of this node that the others reach, which may not be that of the default route
  # (https://docs.vllm.ai/en/latest/configuration/env_vars/)
  export VLLM_HOST_IP=10.0.0.2
  # the interface of that address
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export GLOO_SOCKET_IFNAME=enp67s0
  # the interface of that address
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export TP_SOCKET_IFNAME=enp67s0
  # the interface of that address
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export HCCL_SOCKET_IFNAME=enp67s0
  # the address of this node that the others reach
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export HCCL_IF_IP=10.0.0.2
  # milliseconds; a rank may wait an hour for another side that still loads
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L495)
  export VLLM_RPC_TIMEOUT=3600000
  # a step that waits for KV is no hang
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L495)
  export VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS=30000
  # seconds that ranks wait for each other when they connect
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L566)
  export HCCL_CONNECT_TIMEOUT=1200
  # seconds that ranks wait for each other within a collective
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L495)
  export HCCL_EXEC_TIMEOUT=204
}

decode_args=(
  # the address to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
  --host 10.0.0.2
  # the name clients ask for (https://docs.vllm.ai/en/latest/cli/serve/)
  --served-model-name deepseek-v4-flash
  # ranks that share one replica (https://docs.vllm.ai/en/latest/cli/serve/)
  --tensor-parallel-size 1
  # replicas, each with its own KV pool (https://docs.vllm.ai/en/latest/cli/serve/)
  --data-parallel-size 16
  # experts are spread over all ranks
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  --enable-expert-parallel
  # W8A8 and W4A8 weights need it said
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
  --quantization ascend
  # the longest prompt and answer together, in tokens (https://docs.vllm.ai/en/latest/cli/serve/)
  --max-model-len 1048576
  # requests at once for each replica (https://docs.vllm.ai/en/latest/cli/serve/)
  --max-num-seqs 60
  # tokens of one step (https://docs.vllm.ai/en/latest/cli/serve/)
  --max-num-batched-tokens 120
  # share of device memory for weights, activations and KV
  # (https://docs.vllm.ai/en/latest/cli/serve/)
  --gpu-memory-utilization 0.9
  # tokens of one KV block (https://docs.vllm.ai/en/latest/cli/serve/)
  --block-size 128
  # stated, so that a changed default changes nothing (https://docs.vllm.ai/en/latest/cli/serve/)
  --no-enable-prefix-caching
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
  # on TERM vLLM drops what is running unless it is told how many seconds to finish it; since vLLM
  # 0.18 (https://github.com/vllm-project/vllm/pull/34730)
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
  # recompute_scheduler_enable: a decode node short of KV sends a request back to prefill
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L566)
  --additional-config '{"enable_cpu_binding": true, "ascend_compilation_config": {"enable_npugraph_ex": true, "enable_static_kernel": false}, "multistream_overlap_shared_expert": true, "recompute_scheduler_enable": true}'
  # where the ranks meet (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
  --data-parallel-address 10.0.0.2
  # where the ranks meet (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
  --data-parallel-rpc-port 12321
  # kv_connector: how KV moves from prefill to decode
  # (https://docs.vllm.ai/en/latest/features/disagg_prefill/)
  # kv_role: this side reads the KV
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  # kv_port: outside the range from which Mooncake takes random ports
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  # engine_id: one for each replica
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  # kv_connector_extra_config.prefill.dp_size: both sides state the sizes of both
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  # kv_connector_extra_config.prefill.tp_size: both sides state the sizes of both
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  # kv_connector_extra_config.decode.dp_size: both sides state the sizes of both
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  # kv_connector_extra_config.decode.tp_size: both sides state the sizes of both
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  --kv-transfer-config '{"kv_connector": "MooncakeHybridConnector", "kv_role": "kv_consumer", "kv_port": 36000, "engine_id": "1", "kv_connector_extra_config": {"prefill": {"dp_size": 4, "tp_size": 4}, "decode": {"dp_size": 16, "tp_size": 1}}}'
  # a KV connector switches the hybrid manager off, and DeepSeek-V4 has several KV groups
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/multi_node/external_dp/config/DeepSeek-V4-flash-w8a8-PD-prefix.yaml)
  --no-disable-hybrid-kv-cache-manager
  # both sides draw alike
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L495)
  --seed 1024
)

# decode-0-r0: decode on devices 0
decode_0_r0() {
  log_to decode-0-r0
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=0
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7100
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 0
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r1: decode on devices 1
decode_0_r1() {
  log_to decode-0-r1
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=1
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7101
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 1
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r2: decode on devices 2
decode_0_r2() {
  log_to decode-0-r2
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=2
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7102
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 2
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r3: decode on devices 3
decode_0_r3() {
  log_to decode-0-r3
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=3
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7103
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 3
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r4: decode on devices 4
decode_0_r4() {
  log_to decode-0-r4
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=4
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7104
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 4
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r5: decode on devices 5
decode_0_r5() {
  log_to decode-0-r5
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=5
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7105
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 5
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r6: decode on devices 6
decode_0_r6() {
  log_to decode-0-r6
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=6
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7106
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 6
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r7: decode on devices 7
decode_0_r7() {
  log_to decode-0-r7
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=7
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7107
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 7
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r8: decode on devices 8
decode_0_r8() {
  log_to decode-0-r8
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=8
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7108
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 8
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r9: decode on devices 9
decode_0_r9() {
  log_to decode-0-r9
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=9
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7109
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 9
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r10: decode on devices 10
decode_0_r10() {
  log_to decode-0-r10
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=10
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7110
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 10
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r11: decode on devices 11
decode_0_r11() {
  log_to decode-0-r11
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=11
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7111
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 11
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r12: decode on devices 12
decode_0_r12() {
  log_to decode-0-r12
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=12
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7112
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 12
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r13: decode on devices 13
decode_0_r13() {
  log_to decode-0-r13
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=13
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7113
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 13
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r14: decode on devices 14
decode_0_r14() {
  log_to decode-0-r14
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=14
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7114
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 14
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# decode-0-r15: decode on devices 15
decode_0_r15() {
  log_to decode-0-r15
  decode_env
  # the dies of this process
  # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
  export ASCEND_RT_VISIBLE_DEVICES=15
  VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)"
  export VLLM_API_KEY
  local args=(
    # the port to listen on (https://docs.vllm.ai/en/latest/cli/serve/)
    --port 7115
    # one server for each rank, behind a router
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rank 15
  )
  exec vllm serve /models/flash "${decode_args[@]}" "${args[@]}"
}

# Job control: each process in a group of its own, so Ctrl-C reaches this script alone.
set -m
decode_0_r0 &
started[$!]=decode-0-r0
decode_0_r1 &
started[$!]=decode-0-r1
decode_0_r2 &
started[$!]=decode-0-r2
decode_0_r3 &
started[$!]=decode-0-r3
decode_0_r4 &
started[$!]=decode-0-r4
decode_0_r5 &
started[$!]=decode-0-r5
decode_0_r6 &
started[$!]=decode-0-r6
decode_0_r7 &
started[$!]=decode-0-r7
decode_0_r8 &
started[$!]=decode-0-r8
decode_0_r9 &
started[$!]=decode-0-r9
decode_0_r10 &
started[$!]=decode-0-r10
decode_0_r11 &
started[$!]=decode-0-r11
decode_0_r12 &
started[$!]=decode-0-r12
decode_0_r13 &
started[$!]=decode-0-r13
decode_0_r14 &
started[$!]=decode-0-r14
decode_0_r15 &
started[$!]=decode-0-r15
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
