#!/usr/bin/env bash
# Made by ascend-v4 0.1.0 render docker; edit the topology and render again.
# flash-1p1d: flash-w8a8-mtp on a3 with vllm-ascend 0.23.0.post1 (recipe)
# Run on node d0 (10.0.0.2), every node's script at once: bash d0.sh
# warn: not privileged: IRQ binding is skipped and, where the driver wants more, the start fails
# with "operation not permitted"; --privileged gives what the tutorials give
# (https://github.com/vllm-project/vllm-ascend/blob/v0.30.0rc2/docs/source/faqs.md)
# shellcheck disable=SC2016
here=$(cd "$(dirname "$0")" && pwd)
set -euo pipefail

GRACE=80 # seconds
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
  timeout 30 docker rm --force ascend-v4-flash-1p1d-d0 >/dev/null 2>&1 || true
  exit "$1"
}

trap 'finish 143' TERM
trap 'finish 130' INT

# 16 processes: decode-0-r0, decode-0-r1, decode-0-r2, decode-0-r3, decode-0-r4, decode-0-r5,
# decode-0-r6, decode-0-r7, decode-0-r8, decode-0-r9, decode-0-r10, decode-0-r11, decode-0-r12,
# decode-0-r13, decode-0-r14, decode-0-r15
d0() {
  log_to d0
  local args1=(
    --rm
    --init
    --network host
    --name ascend-v4-flash-1p1d-d0
    --shm-size 512g
    --cap-add IPC_LOCK
    --cap-add SYS_NICE
    --ulimit memlock=-1:-1
    --device /dev/davinci0
    --device /dev/davinci_manager
    --device /dev/devmm_svm
    --device /dev/hisi_hdc
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
    --volume /usr/local/dcmi:/usr/local/dcmi:ro
    --volume /usr/local/Ascend/driver/tools/hccn_tool:/usr/local/Ascend/driver/tools/hccn_tool:ro
    --volume /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro
    --volume /usr/local/Ascend/driver/lib64:/usr/local/Ascend/driver/lib64:ro
    --volume /usr/local/Ascend/driver/version.info:/usr/local/Ascend/driver/version.info:ro
    --volume /etc/ascend_install.info:/etc/ascend_install.info:ro
    --volume /etc/hccn.conf:/etc/hccn.conf:ro
    --volume /models/flash:/models/flash:ro
    --volume "$here/d0.inner.sh:/run/ascend-v4.sh:ro"
    # the secret stays a file
    --volume /etc/ascend-v4/api-key:/etc/ascend-v4/api-key:ro
    --entrypoint /bin/bash
  )
  local args2=(
    quay.io/ascend/vllm-ascend:v0.23.0.post1-a3
    # CANN's paths
    -c 'PS1=x; [ -r ~/.bashrc ] && . ~/.bashrc; [ -n "${ASCEND_HOME_PATH:-}" ] || . /usr/local/Ascend/ascend-toolkit/set_env.sh; exec "$@"' ascend-v4 /bin/bash
    /run/ascend-v4.sh
  )
  exec docker run "${args1[@]}" "${args2[@]}"
}

# Job control: each process in a group of its own, so Ctrl-C reaches this script alone.
set -m
d0 &
started[$!]=d0
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
