#!/usr/bin/env bash
# Writes the lock files: one resolution of everything pyproject.toml asks for, split into parts (see split.py).
# The files name versions and hashes and no address, so that any mirror serves them.
#   requirements/lock.sh [--upgrade | --upgrade-package NAME]
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile=(.venv/bin/uv pip compile --quiet --python-version 3.11
    --generate-hashes --no-emit-index-url --no-annotate --no-header)

cat requirements/*.lock >"$work/all.lock" # what is locked already is preferred
"${compile[@]}" pyproject.toml --extra server --extra worker --extra demo --extra mlflow --extra otel --group dev "$@" \
    -o "$work/all.lock"
"${compile[@]}" pyproject.toml --extra server --extra worker --extra demo -c "$work/all.lock" -o "$work/server.lock"
"${compile[@]}" pyproject.toml --extra server --extra worker --extra demo --extra mlflow -c "$work/all.lock" \
    -o "$work/mlflow.lock"
.venv/bin/python requirements/split.py "$work/all.lock" "$work/server.lock" "$work/mlflow.lock" requirements

"${compile[@]}" - "$@" -o requirements/uv.txt <<<'uv'
