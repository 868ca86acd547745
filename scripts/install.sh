#!/usr/bin/env bash
# Creates .venv and installs this checkout into it, with the versions of constraints.txt. Run by `make install`.
# Usage: scripts/install.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}

fail() {
    echo "error: $*" >&2
    exit 1
}

can_make_venv() { "$python" -c "import ensurepip, venv" 2>/dev/null; }

is_supported() { "$1" -c "import sys; sys.exit(sys.version_info < (3, 10))"; }

if [ ! -x .venv/bin/python ]; then
    # Debian and Ubuntu keep the venv module in a package of its own.
    if ! can_make_venv && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv
    fi
    command -v "$python" >/dev/null || fail "'$python' is not installed. Install Python 3.10 or later, or name one: make install PYTHON=/path/to/python"
    is_supported "$python" || fail "Python 3.10 or later is needed; '$python' is $("$python" --version 2>&1). Name another: make install PYTHON=/path/to/python"
    can_make_venv || fail "'$python' has no venv module. On Debian and Ubuntu: sudo apt-get install python3-venv"
    "$python" -m venv .venv
fi
is_supported .venv/bin/python || fail ".venv was made with $(.venv/bin/python --version 2>&1); Python 3.10 or later is needed. Remove .venv and run again."
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip

what=(--editable ".[dev,tensorboard]" --constraint constraints.txt)
# Unlike pip, uv leaves compiling to each package's first import, and where Python may not write then (PYTHONDONTWRITEBYTECODE, as in many
# containers; read-only installations) every start compiles torch and transformers anew, which takes 9 of its 14 seconds.
export UV_COMPILE_BYTECODE=1
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
if ! { .venv/bin/python -m pip install --quiet uv && .venv/bin/uv pip install --python .venv/bin/python "${what[@]}"; }; then
    echo "uv did not succeed (see above); going on with pip, which takes some minutes." >&2
    .venv/bin/python -m pip install "${what[@]}"
fi

# The browser that the tests of the web page drive. Without it they are skipped; everything else works.
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update --quiet &&
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends chromium >/dev/null; then
        echo "Installed chromium, for the tests of the web page."
    else
        echo "note: there is no chromium; the browser tests will be skipped. On Debian and Ubuntu: sudo apt-get install chromium" >&2
    fi
fi
