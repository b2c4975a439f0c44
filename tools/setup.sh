#!/bin/sh
# Make .venv in the project root from uv.lock. Needs Python >= 3.11; brings its own uv when there is none.
# On Linux without an NVIDIA GPU it installs a CPU build of the locked torch (0.2 GB instead of 3 GB of CUDA libraries).
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
python=""
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "setup: potstill needs Python >= 3.11 and found none. Install one, or say which: make setup PYTHON=/path/to/python3.11" >&2
    exit 2
fi

if command -v uv >/dev/null 2>&1; then
    uv=uv
else
    uv=.tools/uv/bin/uv
    if [ ! -x "$uv" ]; then
        echo "setup: no uv on the PATH, installing uv $UV_VERSION into .tools/ (your system Python stays as it is)"
        if "$python" -m venv .tools/uv >/dev/null 2>&1; then
            .tools/uv/bin/python -m pip install --quiet "uv==$UV_VERSION"
        elif "$python" -m pip --version >/dev/null 2>&1; then
            rm -rf .tools/uv
            "$python" -m pip install --quiet --target .tools/uv "uv==$UV_VERSION"
        else
            echo "setup: $python has neither venv nor pip, so uv can't be brought in. Install uv yourself, or your system's python3-venv package." >&2
            exit 2
        fi
    fi
fi

[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv

has_nvidia_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

if [ "$(uname -s)" != Linux ] || has_nvidia_gpu; then
    exec "$uv" sync --frozen --quiet "$@"
fi

# Everything but torch and what only CUDA builds of torch need.
torch_version=$(sed -n '/^name = "torch"$/{n;s/version = "\(.*\)"/\1/p;}' uv.lock | head -n 1)
skip=""
for name in $(sed -n 's/^name = "\(torch\|triton\|nvidia-.*\|cuda-.*\)"$/\1/p' uv.lock | sort -u); do
    skip="$skip --no-install-package $name"
done
# shellcheck disable=SC2086
"$uv" sync --frozen --quiet --inexact $skip "$@"

if .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch_version')" 2>/dev/null; then
    exit 0
fi
# 1. wheels the machine's owner put at pip's disposal, 2. the CPU build from torch's own index, 3. whatever the default registry has.
[ -z "${PIP_FIND_LINKS:-}" ] || UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
export UV_FIND_LINKS="${UV_FIND_LINKS:-}"
if [ -n "$UV_FIND_LINKS" ] && "$uv" pip install --quiet --python .venv "torch==$torch_version+cpu" 2>/dev/null; then exit 0; fi
if "$uv" pip install --quiet --python .venv --torch-backend cpu "torch==$torch_version" 2>/dev/null; then exit 0; fi
echo "setup: found no CPU build of torch $torch_version, installing the default one (about 3 GB)"
exec "$uv" sync --frozen --quiet "$@"
