#!/usr/bin/env bash
# Makes .venv from nothing but Python: a pinned uv by pip, then everything else by uv, all of it checked by hash.
#   requirements/setup.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
began=$SECONDS
say() { printf '\033[1msetup\033[0m %3d s  %s\n' "$((SECONDS - began))" "$*"; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: '$python' is not Python 3.11 or later; name one with: make setup PYTHON=/path/to/python3" >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv || {
        echo "setup: this Python cannot make virtual environments; on Debian: apt-get install python3.11-venv" >&2
        exit 1
    }
fi
say "installing uv, which installs the rest"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
packages=$(cat requirements/*.lock | grep -c '^[A-Za-z0-9].*==')
say "installing $packages packages, about 2 GB on disk, and compiling them; a minute or several"
# Compiled here once: sandboxed runs may not write, and would compile the same libraries again each time.
.venv/bin/uv pip install --python .venv/bin/python --require-hashes --compile-bytecode \
    -r requirements/server.lock -r requirements/mlflow.lock -r requirements/dev.lock
say "installing steersman itself, from this folder"
.venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation -e .
say "done: .venv holds $(du -sh .venv | cut -f1)"
