#!/usr/bin/env bash
# Set up and run all tests, the real-engine ones included. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh --test
bin=.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/shellcheck" scripts/*.sh .ci/run
"$bin/python" -m ascend_v4.catalog.build --check
# Tests of real processes watch clocks: one that fails on a busy machine is run once more,
# and the summary says so (R).
exec "$bin/python" -m pytest --reruns 1 "$@"
