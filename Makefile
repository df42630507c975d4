# One verb each, the same on a laptop and in CI. Every verb sets up what it needs; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -o pipefail -ec
.DELETE_ON_ERROR:

VENV ?= .venv
# 3.11 first: constraints.txt was taken from it. A launcher may be on PATH and lead nowhere, so each is tried.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.10 python3; do \
	"$$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
OP ?= attention
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

NATIVE := setup.py build_native.py $(shell find csrc -type f)
CXX_FILES = $(shell git ls-files -co --exclude-standard csrc tests | grep -E '\.(cpp|cu|cuh|h)$$')

.PHONY: setup style check check-all types test test-long mutate sanitize chips golden fuzz demo gpu bench wheel clean help
.DEFAULT_GOAL := setup

setup: $(VENV)/.installed  ## create .venv, install pinned dependencies and weft in editable mode, git hooks

$(VENV)/.created:
	.ci/system-packages $(or $(PYTHON),python3)
	$(or $(PYTHON),python3) -m venv $(VENV)
	touch $@

$(VENV)/.dependencies: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt setuptools pybind11 ninja
	$(PIP) install -q -c constraints.txt torch==2.13.0
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit install >/dev/null; fi
	touch $@

# a second editable install does only what changed in csrc/ or in the list of packages
$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE) $(wildcard kernels/*/__init__.py)
	$(PIP) install -q --no-deps --no-build-isolation -e .
	touch $@

style: $(VENV)/.dependencies  ## fix format and lint: ruff, clang-format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_FILES)

check: types  ## verify the same and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

check-all: check setup  ## check, then compile every kernel for every GPU we name, held to budgets; minutes, no GPU
	WEFT_CROSS_COMPILE="80 86 89 90 100 120" $(BIN)/python -m pytest -q tests/triton
	$(BIN)/python tests/csrc/ptxas_report.py --jobs 2

# mypy sees the packages as they are installed, so that weft.kernels.<op> has its name; messages name our files
types: $(VENV)/.dependencies
	rm -rf build/types
	$(BIN)/python setup.py -q build_py --build-lib build/types
	MYPYPATH=build/types $(BIN)/mypy --cache-dir build/mypy -p weft | sed -e 's|build/types/weft/kernels/|kernels/|' -e 's|build/types/|python/|'

# two workers of one thread beat one of two: most tests are small
test: setup check  ## check, then every test that needs no GPU and is not long: 25 minutes at most on 2 slow cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'not gpu and not serial and not long'
	$(BIN)/python -m pytest -q -m 'serial and not gpu and not long'

test-long: setup  ## the tests marked long (builds, sanitizers, whole models): 35 minutes at most on 2 slow cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'long and not gpu and not serial'
	$(BIN)/python -m pytest -q -m 'long and serial and not gpu'

mutate: setup  ## plant faults in a copy, one at a time, and see whether tests find them; an hour or more; ARGS="--only csrc"
	$(BIN)/python tests/mutation/run.py $(ARGS)

sanitize: $(VENV)/.dependencies  ## random calls of the native code under ASan, UBSan, TSan; ARGS="--count 100000 --seed 1"
	$(BIN)/python tests/sanitize/sanitize.py $(ARGS)

chips: setup  ## the numeric tests as on every weaker processor that this machine can emulate: ARGS="--chip avx2"
	$(BIN)/python tests/chips.py $(ARGS) -n 2

compat:  ## import, attach and one test an op with the oldest supported versions: Python 3.10, torch 2.6, diffusers 0.35
	python3.10 -m venv .venv-compat
	.venv-compat/bin/python -m pip install -q -c constraints-oldest.txt torch 'setuptools>=77' pybind11 ninja
	WEFT_CUDA=0 .venv-compat/bin/python -m pip install -q -c constraints-oldest.txt --no-build-isolation -e . \
		pytest hypothesis triton peft
	.venv-compat/bin/python -m pytest -q tests/compat

golden: setup  ## store missing rows of the golden record and list changed ones; ARGS="--only NAME" rewrites a row
	$(BIN)/python tests/golden/record.py $(ARGS)

fuzz: setup  ## the property tests with fresh random examples, more of them; a failure prints what reproduces it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'not gpu and not serial and not long' --hypothesis-profile=fuzz $(ARGS)

demo: setup  ## pictures and attention maps from the embedded model, beside stock diffusers, with both timings
	$(BIN)/weft demo

gpu: setup  ## on a GPU, in nine minutes: tests, compute-sanitizer, benchmarks; elsewhere ARGS=--dry-run
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench: setup  ## measure one op beside its baselines: OP=attention, ARGS="--quick --dtype bf16"
	$(BIN)/python -m benchmarks.run $(OP) $(ARGS)

wheel: setup  ## build sdist and wheel, install the wheel with its dependencies in a clean environment, run it
	rm -rf dist build/wheel
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m venv build/wheel
	build/wheel/bin/python -m pip install -q -c constraints.txt dist/*.whl
	cd build && wheel/bin/weft doctor

clean:  ## remove build products and the virtual environment
	rm -rf build dist $(VENV) python/*.egg-info python/weft/_native.*.so

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/' | expand -t 18
