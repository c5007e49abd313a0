#!/usr/bin/env bash
# Everything that needs a GPU, in one call of less than nine minutes: `make gpu`. Needs nvcc, cmake, ninja, and a python
# with torch, timm, pytest, pytest-benchmark, pytest-xdist, hypothesis, scikit-image, matplotlib, rich and typer; no
# network. OUT is the folder of the results. Steps that fail are named at the end, and the others run all the same.
# DHVT_COMMIT names the commit where there is no repository around the files.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "make gpu: nvidia-smi finds no GPU" >&2; exit 1; }
name=$(tr 'A-Z ' 'a-z-' <<<"$gpu" | sed 's/^nvidia-//')
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
mkdir -p "$out"
failed=()

# step NAME SECONDS COMMAND...: stopped after so many seconds, and when the nine minutes are over.
step() {
  local title=$1 limit=$2 begin=$SECONDS left=$((530 - SECONDS))
  shift 2
  [ "$left" -gt 5 ] || { failed+=("$title (no time left)"); return; }
  [ "$limit" -lt "$left" ] || limit=$left
  echo "== $title"
  timeout --signal=TERM --kill-after=5 "$limit" "$@" || failed+=("$title ($?)")
  echo "== $title: $((SECONDS - begin)) s"
}

pytest=("$python" -m pytest -q -p no:cacheprovider --continue-on-collection-errors)

step build 200 "$python" setup.py build_ext --inplace
step tests 110 "${pytest[@]}" -n "$(nproc)" tests -k "(cuda or gpu) and not emulated and not triton"
step triton 150 "${pytest[@]}" -n "$(nproc)" tests -k "triton"
step benchmarks 120 "${pytest[@]}" benchmarks --benchmark-only --benchmark-quiet --device cuda \
  --benchmark-max-time=0.1 --benchmark-json="$out/$name.json"
step report 20 "$python" -m benchmarks.report "$out/$name.json"
step backends 20 "$python" -m benchmarks.report "$out"
step retrofit 60 "$python" -m benchmarks.retrofit --device cuda --output "$out"
# Without torch's cache every tensor is an allocation of its own, whose end memcheck knows. Tiles of labels are joined by
# atomic operations and volatile reads side by side, which racecheck cannot know to be right.
check=(--kernel-regex kns=dhvt --error-exitcode 9 "${pytest[@]}" tests/test_cuda.py
  -k "equals_the_reference and float32 and not emulated")
PYTORCH_NO_CUDA_MEMORY_CACHING=1 step memcheck 90 compute-sanitizer --tool memcheck "${check[@]}"
step racecheck 90 compute-sanitizer --tool racecheck --kernel-regex-exclude kns=label_tiles "${check[@]}"
echo "$gpu: $SECONDS s; failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
