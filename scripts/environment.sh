# Sourced by the other scripts: finds a supported Python, makes the virtual environment, installs.
# shellcheck shell=bash

PASSL_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints the first Python that runs, is supported and can make virtual environments. A name on the
# PATH is not enough: version managers leave stand-ins there that only print a complaint.
find_python() {
    local candidate newest="${PASSL_PYTHON_BEFORE:-14}"
    # Last, what pyenv has installed but not put on the PATH.
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.10 python3.9 python3.13 python \
        "$HOME"/.pyenv/versions/3.*/bin/python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c "import sys, venv, ensurepip
sys.exit(not (3, 9) <= sys.version_info[:2] < (3, $newest))" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    fail "no supported Python found: install Python 3.9 to 3.$((newest - 1)) with its venv module" \
        "(Debian: apt install python3 python3-venv), or name one: PYTHON=/path/to/python bash $0"
}

# make_environment DIR EXTRAS [PIP ARGUMENTS …]: a virtual environment with this checkout installed
# in it, editable. Cheap when nothing has changed since the last time.
make_environment() {
    local dir="$1" extras="$2" python stamp mark
    shift 2
    mark="$dir/passl-installed-$extras"
    stamp="$(cat "$PASSL_ROOT/setup.py" "$PASSL_ROOT/requirements.txt" | cksum) [$extras] $*"
    if [ -x "$dir/bin/python" ] && [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    if ! [ -x "$dir/bin/python" ]; then
        python="$(find_python)" || exit 2
        echo "making a virtual environment with $("$python" --version) in $dir"
        "$python" -m venv "$dir" || fail "$dir: the virtual environment could not be made"
    fi
    # What this checkout was called once: it is in the way of the command `passl`.
    "$dir/bin/python" -m pip uninstall --quiet --quiet --yes passl
    echo "installing (the first time this fetches a few hundred megabytes) …"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
        -e "$PASSL_ROOT[$extras]" "$@" ||
        fail "pip could not install the requirements; its message is above; check the network and the disk"
    echo "$stamp" >"$mark"
}
