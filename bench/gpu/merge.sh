#!/usr/bin/env bash
# bench/merge.py at Qwen3-VL-4B's true shape, on a GPU host: python3 must have torch, transformers, peft and, for
# `export`, llamafactory; WORK must be on the disk to measure, with 27 GB free. A way that fails says why and is left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d "${WORK:-/tmp}/merge-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
PYTHONUNBUFFERED=1 python3 bench/merge.py --work "$work" --shape "${SHAPE:-4b}" \
  --only "${ONLY:-ours,floor,ours,floor,ours,floor,ours-cuda,export,peft,peft-fp16}"
