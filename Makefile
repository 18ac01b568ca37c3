# Everything runs inside .venv, which `make env` builds from python3 alone.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=
DEVICE ?= cpu
ON_GPU := tests/test_cuda.py tests/test_oracle_models.py tests/test_zoo.py tests/properties
N ?= 1000
SEED ?= 0

BIN := .venv/bin
# For the dry run of its tests the Python part is enough; its dependencies are CUDA libraries.
TENSORRT := torch-tensorrt dllist psutil
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help env test cuda lint format docs demo bench study zoo fuzz opinfo mutants wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12  the interpreter that builds .venv (3.11 or newer)"
	@echo "  JOBS=8             test processes (default 2)"
	@echo "  DEVICE=cuda        where make fuzz computes (default cpu)"
	@echo "  ARGS='-k bert'     extra arguments for make test, make cuda and make demo"

env: $(STAMP) ## build .venv with torch, the package (editable) and all tools; quick when up to date

# torch goes first: packages that depend on it must find the pinned build and not bring their own.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pitome-fx needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[test,zoo,viz,dev,docs,quant,onnx,openvino]'
	$(BIN)/python -m pip install -qq --constraint constraints.txt --no-deps $(TENSORRT) \
	  || echo "no torch-tensorrt for this machine: its dry run will be skipped"
	@touch $@

test: env ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

cuda: env ## run on a GPU the tests of what only a GPU shows, and the laws there
	PITOME_TEST_DEVICE=cuda OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ON_GPU) $(ARGS)

lint: env ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env ## apply formatting and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env ## build the pages of docs/, with a reference made of the docstrings, into build/docs
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo "written  build/docs/index.html"

demo: env ## train a small ViT on digits, compile it with the backend, show what was merged and the speed
	$(BIN)/python examples/demo.py $(ARGS)

bench: env ## measure the speed-up over plain Inductor, the time of the pass and of first calls
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/pass_time.py
	$(BIN)/python benchmarks/compile_time.py

study: env ## measure what each algorithm costs on real models and data (ARGS=--quick: 10 minutes)
	OMP_NUM_THREADS=$(JOBS) $(BIN)/python -W ignore -m benchmarks.study.run $(ARGS)

zoo: env ## check every model of the zoo and write docs/model-coverage.md (ARGS='vit bert' for some)
	$(BIN)/python -m tests.zoo.coverage $(ARGS)

mutants: env ## break the library on purpose, in every way of the table, and see the tests notice
	$(BIN)/python -m tests.mutants.run $(ARGS)

fuzz: env ## run N random programs beside their simulation (N=1000 SEED=0); failures go to .cache/fuzz
	PITOME_TEST_DEVICE=$(DEVICE) OMP_NUM_THREADS=1 \
	  $(BIN)/python -W ignore -m tests.properties.fuzz $(N) $(SEED) $(JOBS)

opinfo: env ## merge each tensor in PyTorch's own samples of every op; writes its table into docs/testing.md
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.properties.opinfo --jobs $(JOBS) $(ARGS)

wheel: env ## build a wheel into dist/
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build

clean: ## remove build products and caches, and .venv
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
