# `make demo` and `make test` set everything up in .venv. A fresh machine needs python3 (>= 3.10, with venv), g++ and make.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
# Where `make bench` writes its result, and what more it passes to pytest.
RESULT ?= benchmarks/results/cpu.json
BENCH ?= --benchmark-max-time=0.5
CPP := $(wildcard csrc/*.h csrc/*/*.h csrc/*/*.cpp csrc/*/*/*.h csrc/*/*/*.cpp csrc/cuda/*.cu csrc/cuda/*.cuh)
EMULATION := $(wildcard tests/emulation/*.h tests/emulation/*.cpp)

.PHONY: venv demo test fuzz sanitize bench gpu docs lint format clean wheel

venv: .venv/built

demo: venv
	$(BIN)/python examples/demo.py

# Tests run side by side: threads that wait for others must not keep the processors from them.
test fuzz: export OMP_WAIT_POLICY = passive

test: venv .venv/emulated
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# 10,000 cases of everything; DHVT_FUZZ_CASES=500 for less.
fuzz: venv
	$(BIN)/python -m pytest -n 2 -m slow tests/test_fuzz.py

sanitize: venv
	tests/sanitize/run.sh

bench: .venv/bench
	-$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-quiet --benchmark-json=$(RESULT) $(BENCH)
	$(BIN)/python -m benchmarks.report $(RESULT)

# On a machine with a GPU, on its own python3 and torch: build, tests, sanitizers, benchmarks (docs/cuda.md).
gpu:
	benchmarks/gpu.sh

# The documentation site in build/site; a warning is an error. Its pictures: docs/pictures.py, docs/gallery.py.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP) $(EMULATION)

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP) $(EMULATION)

wheel: venv
	$(BIN)/pip wheel --no-build-isolation --no-deps -w dist .

clean:
	rm -rf build dist *.egg-info dhvt_kernels/_C.so .venv/built .venv/emulated .venv/bench .*_cache

# torch first, so that nothing else picks its version.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q 'setuptools>=77' wheel cmake ninja
	touch $@

# The editable install builds the library; ninja compiles only what changed. Without timm and torchvision the tests that
# need them are skipped.
.venv/built: .venv/installed CMakeLists.txt setup.py $(wildcard csrc/cuda/*.cmake) $(CPP)
	$(BIN)/pip install -q --no-build-isolation -e '.[dev,demo]'
	-$(BIN)/pip install -q --no-deps timm torchvision==0.28.0
	touch $@

# The CUDA sources compiled for the CPU (docs/emulation.md).
.venv/emulated: .venv/built tests/emulation/CMakeLists.txt $(EMULATION)
	$(BIN)/cmake -S tests/emulation -B build/emulation -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DPython3_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null
	$(BIN)/cmake --build build/emulation
	touch $@

# A peer that does not install is named by the run, which goes on without it.
.venv/bench: .venv/built
	$(BIN)/pip install -q --no-build-isolation -e '.[bench]'
	-$(BIN)/pip install -q --no-deps torchvision==0.28.0
	-$(BIN)/pip install -q 'cython<3' && $(BIN)/pip install -q --no-build-isolation fast-slic
	touch $@
