#!/usr/bin/env bash
# Creates .venv and installs this checkout into it. A package is installed only if its sha256 is in the constraints files.
# Usage: scripts/install.sh runtime|dev [PYTHON]
#   runtime   what training, evaluation and serving need (constraints-runtime.txt)
#   dev       also every extra, the tools of the tests and checks, and a browser (constraints.txt)
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-}
python=${2:-python3}

fail() {
    echo "error: $*" >&2
    exit 1
}

case $profile in
    runtime) lock=constraints-runtime.txt ;;
    dev) lock=constraints.txt ;;
    *) fail "expected 'runtime' or 'dev' as the first argument, got '$profile'. Use make install-runtime or make install." ;;
esac

can_make_venv() { "$python" -c "import ensurepip, venv" 2>/dev/null; }

is_supported() { "$1" -c "import sys; sys.exit(sys.version_info < (3, 10))"; }

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# apt_install REASON PACKAGE...
apt_install() {
    local reason=$1
    shift
    echo "Installing Debian packages with apt-get, as root, for all users of this machine: $* ($reason)" >&2
    apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@"
}

# Both tools understand the same arguments. pip is the second try because it reads settings that uv does not (pip.conf, .netrc).
install_packages() {
    .venv/bin/uv pip install --python .venv/bin/python "$@" && return
    echo "uv did not succeed (see above); trying pip, which checks the same hashes and takes some minutes." >&2
    .venv/bin/python -m pip install "$@"
}

if [ ! -x .venv/bin/python ]; then
    # Debian and Ubuntu keep the venv module in a package of its own.
    if ! can_make_venv && can_apt; then
        apt_install "Python and its venv module" python3 python3-venv
    fi
    command -v "$python" >/dev/null || fail "'$python' is not installed. Install Python 3.10 or later, or name one: make install PYTHON=/path/to/python"
    is_supported "$python" || fail "Python 3.10 or later is needed; '$python' is $("$python" --version 2>&1). Name another: make install PYTHON=/path/to/python"
    can_make_venv || fail "'$python' has no venv module. On Debian and Ubuntu: sudo apt-get install python3-venv"
    "$python" -m venv .venv
fi
is_supported .venv/bin/python || fail ".venv was made with $(.venv/bin/python --version 2>&1); Python 3.10 or later is needed. Remove .venv and run again."
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip

# Unlike pip, uv leaves compiling to each package's first import, and where Python may not write then (PYTHONDONTWRITEBYTECODE, as in many
# containers; read-only installations) every start compiles torch and transformers anew, which takes 9 of its 14 seconds.
export UV_COMPILE_BYTECODE=1
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}

# pip, uv and setuptools. The pips that come with older Pythons refuse hashed packages that another package wants with an extra. What
# is built from source below is built with this setuptools: a build in an isolated environment would download tools without hashes.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --requirement constraints-install.txt
# radgraph and rouge-score (dev only) are published as source alone.
install_packages --require-hashes --no-build-isolation --only-binary :all: --no-binary radgraph --no-binary rouge-score --requirement "$lock"
install_packages --no-build-isolation --no-deps --editable .

if [ "$profile" = dev ] && ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    if ! { can_apt && apt_install "the browser for the tests of the web page" chromium >/dev/null; }; then
        echo "note: there is no chromium; the browser tests will be skipped. On Debian and Ubuntu: sudo apt-get install chromium" >&2
    fi
fi
