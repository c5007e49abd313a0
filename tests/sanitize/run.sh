#!/usr/bin/env bash
# The tests of the operators on kernels built for the sanitizers: run.sh [address] [thread]; both by default.
# docs/reliability.md says what each one sees. Needs the environment that `make venv` makes.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" DHVT_KERNELS_BACKEND=native
torch=$(python -c "import os, torch; print(os.path.dirname(torch.__file__))")

# A copy of the package beside the library that was built for a sanitizer: build/sanitize/<name>/site.
build() {
  local folder=build/sanitize/$1
  cmake -S . -B "$folder" -G Ninja -DDHVT_TORCH_DIR="$torch" -DDHVT_SANITIZE="$2" >/dev/null
  cmake --build "$folder" | tail -1
  rm -rf "$folder/site" && mkdir "$folder/site" && cp -r dhvt_kernels "$folder/site"
  rm -f "$folder/site/dhvt_kernels/_C.so"  # the ordinary one stays where both have the same second
  cmake --install "$folder" --prefix "$folder/site" >/dev/null
}

# pytest on that copy, with the sanitizers' runtimes loaded before Python. Reports go to stderr, uncaptured.
tests() {
  local site=$PWD/build/sanitize/$1/site runtimes=
  for runtime in $2; do runtimes+="$(g++ -print-file-name="lib$runtime.so") "; done
  shift 2
  PYTHONPATH=$site LD_PRELOAD=$runtimes pytest --capture=sys -p no:cacheprovider -p no:faulthandler "$@"
}

# What torch itself compiles or differentiates is left out, and the dtypes that share code with others.
rest="not opcheck and not compile and not gradcheck and not memory and not reference and not bfloat16 and not float64"
operators=$(printf 'tests/test_%s.py ' connected_components region_graph merge_pixels merge_tree merge_best similarity_pool tree_cut scale_set scale_cut saliency soft_cluster token_patches trace simplify edge_points fit_curves svg_paths color_sums)

address() {
  build address address,undefined,float-cast-overflow
  # Python and torch keep what they allocate, so leaks are not looked for. libstdc++ must be there before the runtime
  # asks for what it intercepts: exceptions.
  ASAN_OPTIONS=detect_leaks=0:handle_abort=1 UBSAN_OPTIONS=print_stacktrace=1 \
    tests address "asan ubsan stdc++" tests/test_operators.py $operators tests/test_fuzz.py \
    -k "test_fuzz or (bitwise or equals_reference and not soft) or ($rest and not test_operators)"
}

thread() {
  build thread thread
  # Torch starts on one thread (see threads.cpp for ours), and what code outside the library does to memory is no race of
  # ours: torch, numpy and Python were not compiled for the sanitizer.
  OMP_NUM_THREADS=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66 \
    tests thread tsan tests/test_operators.py tests/test_fuzz.py -k "bitwise or (test_fuzz and not misfit)"
}

[ $# -gt 0 ] || set -- address thread
for sanitizer in "$@"; do
  echo "== $sanitizer"
  time "$sanitizer"
done
