#!/usr/bin/env bash
# Measures soupkit on one GPU in under ten minutes, the most important first, each part under its own limit; prints the
# table of each part as it ends, so that what is cut short keeps what was done.
#
#   benchmarks/gpu.sh [FILE]        FILE gets the tables (default benchmarks/results/gpu.md)
#   benchmarks/gpu.sh --dry FILE    the same code at a small size on the CPU: says that it runs, and nothing of speed
#
# SOUPKIT_PYTHON names the Python to measure with (default python); SOUPKIT_WORK a folder for what is made (25 GB).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${SOUPKIT_PYTHON:-python}
work=${SOUPKIT_WORK:-$(mktemp -d)}
mkdir -p "$work"
[ -n "${SOUPKIT_WORK:-}" ] || trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = --dry ]; then
  shift
  device=cpu devices=cpu large=ViT-S-32-alt few="--rounds 1"
  train="--batch 2 --dropped 0 --ways selective open_clip"
  tower="--images 8 --batch 4 --precision fp32" smaller="" tests=tests/evaluation/test_evaluator.py
  methods="uniform" demo="" compiled=""
else
  device=cuda devices="cpu cuda" large=ViT-bigG-14 few="--rounds 2"
  train="--batch 64"
  tower="--images 4096 --batch 128 --precision bf16" smaller="ViT-L-14 ViT-B-32" tests=tests
  methods="uniform task_arithmetic ties tsv_m" demo=yes compiled=--compile
fi
file=${1:-benchmarks/results/gpu.md}
: >"$file" || exit 1
failed=0

part() { # NAME LIMIT COMMAND...: run a part, keep its standard output, say how it ended
  local name=$1 limit=$2 begun=$SECONDS
  shift 2
  echo "== $name" >&2
  timeout --kill-after=5 "$limit" "$@" | tee -a "$file"
  local status=${PIPESTATUS[0]}
  if [ "$status" != 0 ]; then
    failed=1
    echo "**$name: ended with status $status after $((SECONDS - begun)) s of at most $limit.**" | tee -a "$file"
  fi
  printf '\n' | tee -a "$file"
}

# shellcheck disable=SC2086 # the settings are lists of words
{
  part "training steps" 150 "$python" -m benchmarks.train cuda --model $large --device $device $few $train
  part "image tower" 40 "$python" -m benchmarks.evaluate throughput --model $large --device $device $few $tower
  if [ -n "$compiled" ]; then
    part "image tower, compiled" 70 "$python" -m benchmarks.evaluate throughput --model $large --device $device $compiled $few $tower
  fi
  for model in $smaller; do
    part "image tower of $model" 25 "$python" -m benchmarks.evaluate throughput --model $model --device $device $few $tower
  done
  part "merges" 120 "$python" -m benchmarks.merge device $large --work "$work" --devices $devices --methods $methods $few
  part "tests" 110 "$python" -m pytest -q -m gpu -p no:cacheprovider "$tests"
  if [ -n "$demo" ]; then
    for place in $devices; do
      part "demo on $place" 30 bash -c "time '$python' -m soupkit demo --device $place -o '$work/demo-$place' >/dev/null 2>&1"
    done
  fi
}
exit $failed
