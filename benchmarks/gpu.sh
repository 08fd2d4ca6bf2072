#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, from the source tree, in one call of under eight minutes.
# It needs Python with torch, transformers, safetensors, tokenizers, pydantic, numpy, pillow and pytest; no network. With
# onnx and onnxruntime-gpu it checks the ONNX variants too, with accelerate training; without them their tests are
# skipped, and say so.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
status=0
echo "==> correctness on the GPU"
timeout 240 python3 -m pytest -q -p no:cacheprovider -m gpu -W default tests || status=$?
echo "==> engine speed on the GPU"
timeout 220 python3 benchmarks/engines.py --device cuda || status=$?
exit "$status"
