# Sourced by the scripts: sets PYTHON to an interpreter that has what a requirements file asks for.
#
#   source ./env.sh                                              requirements.txt
#   PCRLV2_REQUIREMENTS=requirements-dev.txt source ./env.sh     another file of this folder
#
# $PYTHON, then the active interpreter, is used when it has everything but what is marked "# optional"; else .venv
# beside this file, made, mended or filled if need be, with uv where there is one, else with venv and pip.
# A sourced file sees the arguments of its caller, so none is read here.

_root="$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"

_say() { echo "env.sh: $*" >&2; }

# The absolute path of an interpreter, when it is new enough.
_interpreter() {
    local found
    found="$(command -v "$1")" && "$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
    case "$found" in /*) echo "$found" ;; *) echo "$PWD/$found" ;; esac
}

_lacks() { "$1" "$_root/utils/installed.py" lacks "$_requirements"; }

_install() {
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$_root/.venv/bin/python" "$@" </dev/null
    else
        "$_root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" </dev/null
    fi
}

# A .venv that cannot be used is made anew when it is broken, and left alone when it may be somebody's own.
_clear_venv() {
    local python="$_root/.venv/bin/python"
    [ -e "$_root/.venv" ] || [ -L "$_root/.venv" ] || return 0
    if [ ! -e "$_root/.venv/pyvenv.cfg" ]; then
        _say "expected an environment in $_root/.venv, found something else; move it away and start again"
        return 1
    fi
    if "$python" -c "" 2>/dev/null && ! _interpreter "$python" >/dev/null; then
        _say "expected Python 3.11 or newer in $_root/.venv, found an older one; remove that folder and start again"
        return 1
    fi
    # What is half installed is forgotten, so that it is installed again.
    if { command -v uv || "$python" -m pip --version; } >/dev/null 2>&1 &&
        "$python" "$_root/utils/installed.py" forget "$_requirements" 2>/dev/null; then
        return 0
    fi
    _say "$_root/.venv is broken; making it anew"
    rm -rf "$_root/.venv"
}

_make_venv() {
    [ -e "$_root/.venv" ] && return
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python ">=3.11" "$_root/.venv"
        return
    fi
    local candidate found=""
    for candidate in python3 python python3.14 python3.13 python3.12 python3.11; do
        if found="$(_interpreter "$candidate")" && "$found" -c "import ensurepip, venv" 2>/dev/null; then
            "$found" -m venv "$_root/.venv"
            return
        fi
    done
    _say "expected Python 3.11 or newer with venv and ensurepip, found none; install one (on Debian and Ubuntu:" \
        "python3-venv), or uv"
    return 1
}

_fill_venv() {
    local line python="$_root/.venv/bin/python" required=()
    while IFS= read -r line; do
        required+=("$line")
    done <<<"$("$python" "$_root/utils/installed.py" required "$_requirements")"
    _install "${required[@]}" || return 1
    while IFS= read -r line; do
        [ -z "$line" ] || _install "$line" 2>/dev/null || _say "going on without $line, which is optional"
    done <<<"$("$python" "$_root/utils/installed.py" optional "$_requirements")"
}

_find_python() {
    local candidate found missing="" name
    name="$(basename "$_requirements")"
    for candidate in ${PYTHON:+"$PYTHON"} python python3 "$_root/.venv/bin/python"; do
        found="$(_interpreter "$candidate")" || continue
        if missing="$(_lacks "$found" 2>/dev/null)"; then
            PYTHON="$found"
            return
        fi
        # Told where somebody has chosen the interpreter; a system's own lacks nearly everything.
        if [ "$candidate" = "${PYTHON:-}" ] || [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
            _say "$found lacks" $missing
        fi
    done
    _say "installing $name into $_root/.venv, which takes some minutes the first time"
    _clear_venv && _make_venv || return 1
    if ! _fill_venv; then
        _say "could not install $name, see above; start again when that is mended, or set PYTHON to an interpreter" \
            "that has everything"
        return 1
    fi
    PYTHON="$_root/.venv/bin/python"
}

_requirements="$_root/${PCRLV2_REQUIREMENTS:-requirements.txt}"
_find_python || return 1
export PYTHON
