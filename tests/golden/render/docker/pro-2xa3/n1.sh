#!/usr/bin/env bash
# Made by ascend-v4 0.1.0 render docker; edit the topology and render again.
# pro-dp: pro-w4a8-mtp on a3 with vllm-ascend 0.26.0rc1 (recipe)
# Run on node n1 (10.0.0.2), every node's script at once: bash n1.sh
# warn: not privileged: IRQ binding is skipped and, where the driver wants more, the start fails
# with "operation not permitted"; --privileged gives what the tutorials give
# (https://github.com/vllm-project/vllm-ascend/blob/v0.30.0rc2/docs/source/faqs.md)
# shellcheck disable=SC2016
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
  timeout 30 docker rm --force ascend-v4-pro-dp-n1 >/dev/null 2>&1 || true
  exit "$1"
}

trap 'finish 143' TERM
trap 'finish 130' INT

# server-0-1: headless
server_0_1() {
  log_to server-0-1
  local args1=(
    --rm
    --init
    --network host
    --name ascend-v4-pro-dp-n1
    --shm-size 512g
    --cap-add IPC_LOCK
    --cap-add SYS_NICE
    --ulimit memlock=-1:-1
    --device /dev/davinci0
    --device /dev/davinci1
    --device /dev/davinci2
    --device /dev/davinci3
    --device /dev/davinci4
    --device /dev/davinci5
    --device /dev/davinci6
    --device /dev/davinci7
    --device /dev/davinci8
    --device /dev/davinci9
    --device /dev/davinci10
    --device /dev/davinci11
    --device /dev/davinci12
    --device /dev/davinci13
    --device /dev/davinci14
    --device /dev/davinci15
    --device /dev/davinci_manager
    --device /dev/devmm_svm
    --device /dev/hisi_hdc
    --volume /usr/local/dcmi:/usr/local/dcmi:ro
    --volume /usr/local/Ascend/driver/tools/hccn_tool:/usr/local/Ascend/driver/tools/hccn_tool:ro
    --volume /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro
    --volume /usr/local/Ascend/driver/lib64:/usr/local/Ascend/driver/lib64:ro
    --volume /usr/local/Ascend/driver/version.info:/usr/local/Ascend/driver/version.info:ro
    --volume /etc/ascend_install.info:/etc/ascend_install.info:ro
    --volume /etc/hccn.conf:/etc/hccn.conf:ro
    --volume /models/pro:/models/pro:ro
    # loads the DeepSeek-V4 patches of 0.13.0rc3; no later release reads it
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.13.0rc3/vllm_ascend/patch/platform/__init__.py#L28)
    --env USE_MULTI_BLOCK_POOL=1
    # off: it is published for prefill nodes of A3 alone, and on A2 and A5 it does nothing but
    # switch the shared-expert overlap off
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
    --env VLLM_ASCEND_ENABLE_FUSED_MC2=0
    # vllm-ascend binds CPUs itself
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --env OMP_PROC_BIND=false
    # the tutorials of every release
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --env OMP_NUM_THREADS=10
    # less fragmentation of device memory
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --env PYTORCH_NPU_ALLOC_CONF=expandable_segments:True
    # the tutorial of the release
    # (https://github.com/vllm-project/vllm-ascend/blob/releases/v0.21.0rc/docs/source/tutorials/models/DeepSeek-V4-Pro.md#L300)
    --env HCCL_BUFFSIZE=2048
    # operators are queued by a second thread
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --env TASK_QUEUE_ENABLE=1
    # collectives are expanded on the vector cores
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --env HCCL_OP_EXPANSION_MODE=AIV
    # the API server gives up on a loading engine after 600 s otherwise; the nightly CI allows
    # 3000
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
    --env VLLM_ENGINE_READY_TIMEOUT_S=3600
    # the address of this node that the others reach, which may not be that of the default route
    # (https://docs.vllm.ai/en/latest/configuration/env_vars/)
    --env VLLM_HOST_IP=10.0.0.2
    # the interface of that address
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
    --env GLOO_SOCKET_IFNAME=enp67s0
    # the interface of that address
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
    --env TP_SOCKET_IFNAME=enp67s0
    # the interface of that address
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
    --env HCCL_SOCKET_IFNAME=enp67s0
    # the address of this node that the others reach
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
    --env HCCL_IF_IP=10.0.0.2
    # the dies of this process
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md)
    --env 'ASCEND_RT_VISIBLE_DEVICES=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15'
    --entrypoint /bin/bash
  )
  local args2=(
    quay.io/ascend/vllm-ascend:v0.26.0rc1-a3
    # CANN's paths
    -c 'PS1=x; [ -r ~/.bashrc ] && . ~/.bashrc; [ -n "${ASCEND_HOME_PATH:-}" ] || . /usr/local/Ascend/ascend-toolkit/set_env.sh; exec "$@"' ascend-v4
    # set by nothing in this plan; the image's would spoil it
    env
    -u ACL_OP_INIT_MODE -u ASCEND_ENABLE_USE_FABRIC_MEM -u ASCEND_LAUNCH_BLOCKING
    -u DYNAMIC_EPLB -u EXPERT_MAP_RECORD -u FLA_USE_FAST_OPS
    -u HCCL_ALGO -u HCCL_DETERMINISTIC -u HCCL_INTRA_PCIE_ENABLE
    -u HCCL_INTRA_ROCE_ENABLE -u LCCL_DETERMINISTIC -u MSMONITOR_USE_DAEMON
    -u PYTORCH_CUDA_ALLOC_CONF -u TRITON_ALL_BLOCKS_PARALLEL -u VLLM_ALLOW_LONG_MAX_MODEL_LEN
    -u VLLM_ASCEND_BALANCE_SCHEDULING -u VLLM_ASCEND_ENABLE_FLASHCOMM1 -u VLLM_ASCEND_ENABLE_MLAPO
    -u VLLM_ASCEND_ENABLE_NZ -u VLLM_ASCEND_FUSION_OP_TRANSPOSE_KV_CACHE_BY_BLOCK -u VLLM_ASCEND_MLA_FIA_SPLIT
    -u VLLM_ATTENTION_BACKEND -u VLLM_BATCH_INVARIANT -u VLLM_CPU_NUM_OF_RESERVED_CPU
    -u VLLM_DEEP_GEMM_WARMUP -u VLLM_DISABLE_SHARED_EXPERTS_STREAM -u VLLM_DP_MASTER_IP
    -u VLLM_DP_MASTER_PORT -u VLLM_DP_RANK -u VLLM_DP_RANK_LOCAL
    -u VLLM_DP_SIZE -u VLLM_ENABLE_V1_MULTIPROCESSING -u VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS
    -u VLLM_MOE_DP_CHUNK_SIZE -u VLLM_PLUGINS -u VLLM_PREFIX_CACHE_RETENTION_INTERVAL
    -u VLLM_RPC_TIMEOUT -u VLLM_SERVER_DEV_MODE -u VLLM_TORCH_PROFILER_DIR
    -u VLLM_TORCH_PROFILER_WITH_STACK -u VLLM_USE_BREAKABLE_CUDAGRAPH -u VLLM_USE_DEEP_GEMM
    -u VLLM_USE_FASTOKENS -u VLLM_USE_MODELSCOPE -u VLLM_USE_V1
    -u VLLM_USE_V2_MODEL_RUNNER -u VLLM_WORKER_MULTIPROC_METHOD
    vllm serve /models/pro
    # the name clients ask for (https://docs.vllm.ai/en/latest/cli/serve/)
    --served-model-name deepseek-v4-pro
    # ranks that share one replica (https://docs.vllm.ai/en/latest/cli/serve/)
    --tensor-parallel-size 16
    # replicas, each with its own KV pool (https://docs.vllm.ai/en/latest/cli/serve/)
    --data-parallel-size 2
    # experts are spread over all ranks
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --enable-expert-parallel
    # W8A8 and W4A8 weights need it said
    # (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
    --quantization ascend
    # the longest prompt and answer together, in tokens
    # (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-model-len 135000
    # requests at once for each replica (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-num-seqs 32
    # tokens of one step (https://docs.vllm.ai/en/latest/cli/serve/)
    --max-num-batched-tokens 4096
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
    # enable_flashcomm1: this release wants the key instead of the variable; enable_dsa_cp is a
    # start-up error without it (vllm-ascend 0.26.0rc1 (sdist),
    # docs/source/tutorials/models/DeepSeek-V4-Flash.md:148)
    --additional-config '{"enable_cpu_binding": true, "ascend_compilation_config": {"enable_npugraph_ex": true, "enable_static_kernel": false}, "multistream_overlap_shared_expert": true, "enable_flashcomm1": true}'
    # ranks of this node (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-size-local 1
    # first rank of this node (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-start-rank 1
    # where the ranks meet (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-address 10.0.0.1
    # where the ranks meet (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --data-parallel-rpc-port 12321
    # ranks only: the head node serves the API
    # (https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/)
    --headless
  )
  exec docker run "${args1[@]}" "${args2[@]}"
}

# Job control: each process in a group of its own, so Ctrl-C reaches this script alone.
set -m
server_0_1 &
started[$!]=server-0-1
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
