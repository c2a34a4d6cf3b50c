#!/usr/bin/env bash
# Fetch the W8A8 weights that the ascend profile serves by default.
set -euo pipefail
exec ascend-v4 download --profile ascend --model flash-w8a8-mtp "$@"
