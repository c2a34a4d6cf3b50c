# flash-w8a8-mtp on a2 with vllm-ascend 0.25.1rc1 (profile ascend, recipe)
# loads the DeepSeek-V4 patches of 0.13.0rc3; no later release reads it (https://github.com/vllm-project/vllm-ascend/blob/v0.13.0rc3/vllm_ascend/patch/platform/__init__.py#L28)
# USE_MULTI_BLOCK_POOL: has an effect on 0.13.0rc3 to deepseekv4; none on 0.20.2rc1 and later
export USE_MULTI_BLOCK_POOL='1'
# off: it is published for prefill nodes of A3 alone, and on A2 and A5 it does nothing but switch the shared-expert overlap off (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
# VLLM_ASCEND_ENABLE_FUSED_MC2: has an effect on 0.13.0rc3 to 0.26.0rc1; none on 0.27.1rc1 and later; moved to additional_config.enable_fused_mc2
export VLLM_ASCEND_ENABLE_FUSED_MC2='0'
# vllm-ascend binds CPUs itself (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
export OMP_PROC_BIND='false'
# the tutorials of every release (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
export OMP_NUM_THREADS='10'
# less fragmentation of device memory (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
export PYTORCH_NPU_ALLOC_CONF='expandable_segments:True'
# room for expert-parallel dispatch of a full batch; MiB for each communicator (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
export HCCL_BUFFSIZE='1024'
# operators are queued by a second thread (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
export TASK_QUEUE_ENABLE='1'
# collectives are expanded on the vector cores (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md#L190)
export HCCL_OP_EXPANSION_MODE='AIV'
# sequence parallel MoE; enable_dsa_cp is a start-up error without it (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/vllm_ascend/utils.py#L1515)
export VLLM_ASCEND_ENABLE_FLASHCOMM1='1'
# the API server gives up on a loading engine after 600 s otherwise; the nightly CI allows 3000 (https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/tests/e2e/nightly/single_node/models/configs/DeepSeek-V4-Flash-W8A8-A3.yaml)
export VLLM_ENGINE_READY_TIMEOUT_S='3600'
# set by nothing in this plan; an old export would spoil it
unset ACL_OP_INIT_MODE ASCEND_ENABLE_USE_FABRIC_MEM ASCEND_LAUNCH_BLOCKING DYNAMIC_EPLB EXPERT_MAP_RECORD FLA_USE_FAST_OPS HCCL_ALGO HCCL_DETERMINISTIC HCCL_INTRA_PCIE_ENABLE HCCL_INTRA_ROCE_ENABLE LCCL_DETERMINISTIC MSMONITOR_USE_DAEMON PYTORCH_CUDA_ALLOC_CONF TRITON_ALL_BLOCKS_PARALLEL VLLM_ALLOW_LONG_MAX_MODEL_LEN VLLM_ASCEND_BALANCE_SCHEDULING VLLM_ASCEND_ENABLE_MLAPO VLLM_ASCEND_ENABLE_NZ VLLM_ASCEND_FUSION_OP_TRANSPOSE_KV_CACHE_BY_BLOCK VLLM_ATTENTION_BACKEND VLLM_BATCH_INVARIANT VLLM_CPU_NUM_OF_RESERVED_CPU VLLM_DEEP_GEMM_WARMUP VLLM_DISABLE_SHARED_EXPERTS_STREAM VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT VLLM_DP_RANK VLLM_DP_RANK_LOCAL VLLM_DP_SIZE VLLM_ENABLE_V1_MULTIPROCESSING VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS VLLM_MOE_DP_CHUNK_SIZE VLLM_PLUGINS VLLM_PREFIX_CACHE_RETENTION_INTERVAL VLLM_RPC_TIMEOUT VLLM_SERVER_DEV_MODE VLLM_TORCH_PROFILER_DIR VLLM_TORCH_PROFILER_WITH_STACK VLLM_USE_BREAKABLE_CUDAGRAPH VLLM_USE_DEEP_GEMM VLLM_USE_FASTOKENS VLLM_USE_MODELSCOPE VLLM_USE_V1 VLLM_USE_V2_MODEL_RUNNER VLLM_WORKER_MULTIPROC_METHOD
