#!/usr/bin/env bash
# Serve on this host's NVIDIA GPUs.
set -euo pipefail
exec ascend-v4 serve --profile cuda "$@"
