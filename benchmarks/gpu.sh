#!/usr/bin/env bash
# Everything that needs a GPU, in one call of less than nine minutes: `make gpu`. Needs nvcc, cmake, ninja, and a python
# with torch, pytest, pytest-benchmark, pytest-xdist, hypothesis and scikit-image; no network. Steps that fail are named at
# the end, and the others run all the same. DHVT_COMMIT names the commit where there is no repository around the files.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "make gpu: nvidia-smi finds no GPU" >&2; exit 1; }
name=$(tr 'A-Z ' 'a-z-' <<<"$gpu" | sed 's/^nvidia-//')
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 CUBLAS_WORKSPACE_CONFIG=:4096:8
mkdir -p "$out"
failed=()

# step NAME SECONDS COMMAND...: stopped after so many seconds.
step() {
  local title=$1 limit=$2 begin=$SECONDS
  shift 2
  echo "== $title"
  timeout --signal=TERM --kill-after=15 "$limit" "$@" || failed+=("$title ($?)")
  echo "== $title: $((SECONDS - begin)) s"
}

pytest=("$python" -m pytest -q -p no:cacheprovider --continue-on-collection-errors)

step build 200 "$python" setup.py build_ext --inplace
step tests 110 "${pytest[@]}" -n "$(nproc)" tests -k "(cuda or gpu) and not emulated"
step benchmarks 120 "${pytest[@]}" benchmarks --benchmark-only --benchmark-quiet --device cuda \
  --benchmark-max-time=0.1 --benchmark-json="$out/$name.json"
step report 20 "$python" -m benchmarks.report "$out/$name.json"
for tool in memcheck racecheck; do
  step "$tool" 40 compute-sanitizer --tool "$tool" --kernel-regex kns=dhvt --error-exitcode 9 "${pytest[@]}" \
    tests/test_cuda.py -k "equals_the_reference and float32 and not emulated"
done
echo "$gpu: $SECONDS s; failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
