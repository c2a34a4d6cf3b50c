#!/usr/bin/env bash
# The whole deployment on a CPU: set everything up, serve, ask one question in each
# thinking mode, show the answers, stop cleanly.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
ascend_v4=.venv/bin/ascend-v4
port="${ASCEND_V4_PORT:-18080}"

"$ascend_v4" engine install --profile cpu
work="$(mktemp -d)"
"$ascend_v4" serve --profile cpu --port "$port" > "$work/endpoint" 2> "$work/log" &
server=$!
finish() {
  kill -TERM "$server" 2>/dev/null && wait "$server" || true
  rm -rf "$work"
}
trap finish EXIT

echo "starting the real vLLM on the CPU; the first answer takes about half a minute" >&2
while [ ! -s "$work/endpoint" ]; do
  if ! kill -0 "$server" 2>/dev/null; then
    cat "$work/log" >&2
    wait "$server"
  fi
  sleep 0.5
done
endpoint="$(head -n 1 "$work/endpoint")"

for thinking in off high max; do
  echo "--- thinking: $thinking"
  "$ascend_v4" chat "Are you there?" --thinking "$thinking" --base-url "$endpoint" 2>&1
done

kill -TERM "$server"
code=0
wait "$server" || code=$?
trap - EXIT
rm -rf "$work"
if [ "$code" -ne 143 ]; then
  echo "error: the server stopped with exit code $code instead of 143" >&2
  exit 1
fi
echo "--- rehearsal complete: served, answered in three modes, stopped cleanly"
