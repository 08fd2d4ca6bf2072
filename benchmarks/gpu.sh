#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, from the source tree, in one call of under eight minutes.
#
#     benchmarks/gpu.sh [FILE]     the figures as JSON also go to FILE
#     benchmarks/gpu.sh --quick    tiny shapes on a CPU, to see that it runs
#
# It needs Python with torch, transformers, safetensors, tokenizers, pydantic, numpy, tqdm and pytest (pytest-timeout); no
# network. The checks of whole models also need what tests/conftest.py imports (redis, hypothesis, pillow ...); with onnx
# and onnxruntime-gpu the ONNX variants are checked too, with accelerate training. What is left out says so.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
status=0
measured=(--seconds 150)
if [ "${1:-}" = --quick ]; then measured=(--quick); elif [ -n "${1:-}" ]; then measured+=(--write "$1"); fi
checked=(tests/gpu)
if ! missing=$(python3 -c "import tests.conftest" 2>&1); then
    echo "==> without whole models: ${missing##*$'\n'}"
    checked=(--confcutdir=tests/gpu tests/gpu/test_graphs.py tests/gpu/test_onnx.py)
fi
echo "==> correctness on the GPU"
timeout 230 python3 -m pytest -q -p no:cacheprovider -m gpu -W default --durations=5 "${checked[@]}" || status=$?
echo "==> speed on the GPU"
timeout 230 python3 benchmarks/gpu.py "${measured[@]}" || status=$?
exit "$status"
