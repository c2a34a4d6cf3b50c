#!/usr/bin/env bash
# Put the command line into .venv of this clone; --test adds what the tests need.
# Does nothing when that is done already.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=""
if [ "${1:-}" = "--test" ]; then
  extras="[test,lint]"
fi

python="${PYTHON:-python3}"
wanted="$("$python" --version) $extras $(sha256sum pyproject.toml | cut -d' ' -f1)"
if [ "$(cat .venv/.installed 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "error: $python is older than Python 3.10" >&2
  echo "next:  PYTHON=python3.11 $0" >&2
  exit 6
fi
echo "installing ascend-v4$extras into .venv" >&2
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras" >&2
printf '%s' "$wanted" > .venv/.installed
