# Everything runs in .venv of this checkout; nothing is installed elsewhere but the
# built backends (see backends/build.sh).

PYTHON ?= python3
BIN := .venv/bin
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.10 \
  --generate-hashes --no-emit-index-url --no-annotate

.DEFAULT_GOAL := help
.PHONY: help setup run test compat lint format gpu-test bench backends jaeger collector lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: .venv/.complete ## Install what the project needs into .venv (run and test do it by themselves)

# uv installs the locked versions in parallel; pip installs uv.
.venv/.complete: requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; choose one with make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into .venv (once; torch is large: some minutes)"
	@$(PYTHON) -m venv .venv || { echo "python3 -m venv failed; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## Capture a small model's graphs and show what arrived over OTLP
	@$(BIN)/python -m runner $(ARGS)

test: setup ## Run all tests, with a real collector and Jaeger where Go can build them
	@backends/build.sh >/dev/null || echo "Tests that need the collector or Jaeger will be skipped."
	@$(BIN)/python -m pytest $(ARGS)

compat: setup ## Check the adapters against what the engines have published (network; OTEL_CUDAGRAPH_SOURCES: cache)
	@$(BIN)/python -m pytest tests/compat -m compat $(ARGS)

lint: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

gpu-test: ## Run the GPU checks with PYTHON's own torch, no network needed
	@$(PYTHON) -m pytest tests/gpu $(ARGS)

bench: setup ## Run the benchmarks (a GPU gives figures that mean something)
	@$(BIN)/python -m benchmarks.replay $(ARGS)
	@$(BIN)/python -m benchmarks.capture

backends: ## Build the OpenTelemetry Collector and Jaeger; prints where they are
	@backends/build.sh

jaeger: ## Start Jaeger on its default ports, query API on 16686
	@"$$(backends/build.sh)/jaeger" --config backends/jaeger-config.yaml

collector: ## Start the collector with collector-config.yaml
	@"$$(backends/build.sh)/otelcol" --config collector-config.yaml

lock: setup ## Resolve the development environment anew (ARGS=--upgrade for newer versions)
	@$(LOCK) --output-file requirements/uv.txt requirements/uv.in $(ARGS)
	@$(LOCK) --group dev --all-extras --output-file requirements/dev.txt pyproject.toml $(ARGS)

clean: ## Remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache dist build
