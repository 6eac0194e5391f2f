#!/usr/bin/env bash
# Set up what the tests need, then lint, check types and test. Arguments go to pytest: bash run_tests.sh -k losses
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source env.sh requirements-dev.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy .
"$PYTHON" -m pytest "$@"
