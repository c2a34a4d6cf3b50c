#!/usr/bin/env bash
# Serve on this host's Ascend NPUs.
set -euo pipefail
exec ascend-v4 serve --profile ascend "$@"
