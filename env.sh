# Sourced by the run scripts: sets PYTHON to an interpreter that has what a requirements file asks for.
#
#   source env.sh [REQUIREMENTS]      default requirements.txt
#
# The active interpreter is used when it has everything but what is marked "# optional"; else .venv beside this file,
# made and filled if need be, with uv where there is one, else with venv and pip.

_root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
_requirements="$_root/${1:-requirements.txt}"
_oldest="3.11"

_has_everything() {  # INTERPRETER
    "$1" - "$_requirements" "$_oldest" <<'PY' 2>/dev/null
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

def satisfied(path):
    for line in path.read_text().splitlines():
        line, _, comment = (part.strip() for part in line.partition("#"))
        if comment == "optional":
            continue
        if line.startswith("-r"):
            if not satisfied(path.parent / line[2:].strip()):
                return False
        elif line:
            asked = Requirement(line)
            try:
                if not asked.specifier.contains(version(asked.name), prereleases=True):
                    return False
            except PackageNotFoundError:
                return False
    return True

new_enough = sys.version_info[:2] >= tuple(map(int, sys.argv[2].split(".")))
sys.exit(0 if new_enough and satisfied(Path(sys.argv[1])) else 1)
PY
}

_new_enough() { "$1" -c "import sys; sys.exit(sys.version_info[:2] < tuple(map(int, '$_oldest'.split('.'))))" 2>/dev/null; }

_fill_venv() {
    echo "env.sh: installing $(basename "$_requirements") into .venv; the first time takes some minutes" >&2
    if command -v uv >/dev/null 2>&1; then
        [ -x "$_root/.venv/bin/python" ] || uv venv --quiet --python ">=$_oldest" "$_root/.venv" || return 1
        uv pip install --quiet --python "$_root/.venv/bin/python" -r "$_requirements"
        return
    fi
    if [ ! -x "$_root/.venv/bin/python" ]; then
        local candidate
        for candidate in python3 python python3.14 python3.13 python3.12 python3.11 ""; do
            if [ -z "$candidate" ]; then
                echo "env.sh: expected Python $_oldest or newer, found none; install one, or uv" >&2
                return 1
            fi
            command -v "$candidate" >/dev/null 2>&1 && _new_enough "$candidate" && break
        done
        "$candidate" -m venv "$_root/.venv" || return 1
    fi
    "$_root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$_requirements"
}

PYTHON=""
for _candidate in python python3 "$_root/.venv/bin/python"; do
    if command -v "$_candidate" >/dev/null 2>&1 && _has_everything "$_candidate"; then
        PYTHON="$_candidate"
        break
    fi
done
if [ -z "$PYTHON" ]; then
    _fill_venv || { echo "env.sh: the installation failed, see above" >&2; exit 1; }
    PYTHON="$_root/.venv/bin/python"
fi
export PYTHON
