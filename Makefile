# Reelway. On a machine with only Python >= 3.11 and make: `make demo`, `make test`.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev
SYSTEM_STAMP := $(VENV)/.installed-system
JS := tests/system/js
JS_STAMP := $(JS)/node_modules/.installed
DEMO_ARGS ?=
TEST_ARGS ?= -n auto

BENCH_ARGS ?=
SOAK_ARGS ?=
SYSTEM_ARGS ?=

.PHONY: help demo test check system bench soak format clean

help:  ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@$(PYTHON) -m venv $(VENV)
	@echo "==> installing reelway and its tools from the package index (about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,embedded,otel]'
	@touch $@

demo: $(STAMP)  ## Start everything with simulated upstreams and print examples to paste
	@echo "==> starting the demo"
	@exec $(BIN)/python -m proxy demo $(DEMO_ARGS)

test: $(STAMP)  ## Run the tests (Python only)
	@echo "==> running the tests"
	@$(BIN)/python -m pytest $(TEST_ARGS)

check: $(STAMP)  ## Format, lint, types, floors
	@echo "==> ruff format"
	@$(BIN)/ruff format --check proxy tests
	@echo "==> ruff check"
	@$(BIN)/ruff check proxy tests
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> floors, modules alone"
	@$(BIN)/python -m pytest -q tests/unit/test_floors.py tests/unit/test_imports.py
	@echo "==> config.toml"
	@$(BIN)/python -m proxy check --config config.toml

$(SYSTEM_STAMP): $(STAMP)
	@echo "==> installing what the system tests need from the package index"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,embedded,otel,system]'
	@touch $@

$(JS_STAMP): $(JS)/package-lock.json | $(SYSTEM_STAMP)
	@echo "==> installing the openai package from the npm registry"
	@PATH="$(abspath $(BIN)):$$PATH" npm ci --prefix $(JS) --ignore-scripts --no-audit --no-fund --silent
	@touch $@

system: $(SYSTEM_STAMP) $(JS_STAMP)  ## Test deploy/, nginx, Sentinel, Cluster, the console and JavaScript (needs tests/system/packages.txt)
	@echo "==> running the system tests"
	@$(BIN)/python -m pytest tests/system $(SYSTEM_ARGS)

bench: $(STAMP)  ## Measure against nginx, HAProxy and Caddy (needs their Debian packages; 15 minutes)
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

soak: $(STAMP)  ## The long tests: storms, a thousand slow readers, ten thousand tasks
	@$(BIN)/python -m pytest tests/soak -o timeout=900 $(SOAK_ARGS)

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff format proxy tests
	@$(BIN)/ruff check --fix proxy tests

clean:  ## Remove what make made
	rm -rf $(VENV) $(JS)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
