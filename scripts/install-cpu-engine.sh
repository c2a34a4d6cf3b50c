#!/usr/bin/env bash
# Install the CPU engine of the rehearsal into an environment of its own.
set -euo pipefail
exec ascend-v4 engine install --profile cpu "$@"
