#!/usr/bin/env bash
# Set up what the tests need, then lint, check types and test. Arguments go to pytest: bash run_tests.sh -k losses
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
PCRLV2_REQUIREMENTS=requirements-dev.txt source ./env.sh

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy .
# A file of tests stays in one process, since its tests share what they made; each process uses one thread.
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
