# Everything goes through .venv, made once from Python, make and the package index alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= runs/quickstart

# Tests never ask a network, and their workers share the cores instead of fighting for them.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help quickstart test scale lint litert interop gpu format docs clean

help: ## List what can be made.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 20

quickstart: $(READY) ## See the whole pipeline run offline, in minutes (OUT=folder).
	$(BIN)/clipdistill quickstart --out $(OUT)

test: $(READY) ## Run the tests, offline (ARGS="-k words" picks some).
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not scale" $(ARGS)

scale: $(READY) ## Run the slow tests: several processes, a Ray cluster, kills, full disks.
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,ray]'
	$(TEST_ENV) $(BIN)/python -m pytest -m scale $(ARGS)

lint: $(READY) ## Check style, types and layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

litert: $(READY) ## Install what makes LiteRT files (--target litert, 0.9 GB), and run its tests.
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -r tools/litert-convert.txt
	$(TEST_ENV) $(BIN)/python -m pytest tests/deploy/test_litert.py tests/formats/test_litert_files.py $(ARGS)

interop: $(READY) ## Compare with the real thing: TensorRT's bindings, Docker, clip-retrieval (10 GB, network).
	$(BIN)/python tools/tensorrt_bindings.py
	INTEROP=1 $(TEST_ENV) $(BIN)/python -m pytest -q -m interop
	$(TEST_ENV) $(BIN)/python tools/interop.py

gpu: $(READY) ## On an NVIDIA GPU: its tests and measurements, into benchmarks/gpu-DATE.md.
	$(BIN)/python benchmarks/gpu.py --out runs/gpu $(ARGS)

format: $(READY) ## Repair what ruff can repair.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## Write docs/cli.md and the type stub anew from the verbs.
	$(BIN)/python tools/make_cli_docs.py
	$(BIN)/python tools/make_stub.py

clean: ## Delete the virtual environment, caches and the quickstart's results.
	rm -rf $(VENV) .venv-interop .tensorrt-bindings build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf runs/quickstart src/*.egg-info
	find src tests tools scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when what is to be installed changes.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch is large, this takes a few minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@
