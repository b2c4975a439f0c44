#!/bin/sh
# Make .venv in the project root from uv.lock. Needs Python >= 3.11 and nothing else; uv is brought into .tools/ when there is none.
# On Linux without an NVIDIA GPU torch is a CPU build of the locked version: docs/design/003-torch-on-cpu-machines.md says why.
#
#   PYTHON=/path/to/python3.12 sh tools/setup.sh      which Python to build .venv from; default: the first that is new enough
set -eu
cd "$(dirname "$0")/.."

# An activated environment elsewhere is not ours to touch.
unset VIRTUAL_ENV CONDA_PREFIX
export UV_PROJECT_ENVIRONMENT=.venv
quiet=--quiet
if [ -t 2 ]; then quiet=""; fi

say() { echo "setup: $*" >&2; }

give_up() {
    say "$*"
    exit 2
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

identity_of() { "$1" -c 'import os, sys; print(sys.version, os.path.realpath(sys.base_prefix))' 2>/dev/null; }

# locked_version NAME: the version uv.lock has of it.
locked_version() { awk -v name="name = \"$1\"" '$0 == name { getline; gsub(/version = |"/, ""); print; exit }' uv.lock; }

has_nvidia_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

# Older ones don't know --torch-backend.
is_usable_uv() { "$1" pip install --help 2>/dev/null | grep -q -e --torch-backend; }

bring_uv() {
    version=$(locked_version uv)
    say "no recent uv on the PATH: bringing uv $version into .tools/ (your system's Python stays as it is)"
    rm -rf .tools/uv
    if "$python" -m venv .tools/uv >/dev/null 2>&1 && .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$version"; then return; fi
    # Linux distributions ship a Python without ensurepip, with or without pip.
    rm -rf .tools/uv
    if "$python" -m pip --version >/dev/null 2>&1 && "$python" -m pip install --quiet --disable-pip-version-check --target .tools/uv "uv==$version"; then return; fi
    rm -rf .tools/uv
    "$python" tools/fetch_uv.py .tools/uv || give_up "uv could not be brought in. Install it yourself and start again."
}

if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || give_up "PYTHON=$PYTHON is not a Python >= 3.11."
    python=$PYTHON
else
    python=""
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || give_up "found no Python >= 3.11. Install one, or say which: make setup PYTHON=/path/to/python3.12"
fi

uv=.tools/uv/bin/uv
if command -v uv >/dev/null 2>&1 && is_usable_uv uv; then
    uv=uv
elif ! is_usable_uv "$uv"; then
    bring_uv
fi

if [ -n "${PYTHON:-}" ] && [ "$(identity_of "$python")" != "$(identity_of .venv/bin/python)" ]; then rm -rf .venv; fi
if [ ! -x .venv/bin/python ]; then
    rm -rf .venv
    say "building .venv with $("$python" --version): up to a few minutes the first time"
    "$uv" venv --quiet --python "$python" .venv
fi

if [ "$(uname -s)" != Linux ] || has_nvidia_gpu; then
    exec "$uv" sync --frozen $quiet "$@"
fi

# Everything but torch and what only CUDA builds of torch need.
skip=$(awk '/^name = "(torch|triton|nvidia-.*|cuda-.*)"$/ { gsub(/"/, ""); print "--no-install-package " $3 }' uv.lock)
# shellcheck disable=SC2086
"$uv" sync --frozen --inexact $quiet $skip "$@"

torch=$(locked_version torch)
if .venv/bin/python -c "from importlib.metadata import version; exit(version('torch').split('+')[0] != '$torch')" 2>/dev/null; then
    exit 0
fi
# The CPU build: where the machine's owner told pip or uv to look, then where PyTorch keeps it.
UV_FIND_LINKS=${UV_FIND_LINKS:-$(echo "${PIP_FIND_LINKS:-}" | tr ' ' ',')}
if [ -n "$UV_FIND_LINKS" ]; then export UV_FIND_LINKS; else unset UV_FIND_LINKS; fi
if "$uv" pip install -qq --python .venv --no-deps "torch==$torch+cpu"; then exit 0; fi
if "$uv" pip install $quiet --python .venv --no-deps --torch-backend cpu "torch==$torch"; then exit 0; fi
say "found no CPU build of torch $torch: installing the default one with its CUDA libraries (about 3 GB)"
exec "$uv" sync --frozen $quiet "$@"
