# `make serve` and `make test` do all set-up by themselves; everything else is for developers. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
STORE ?= store
PORT ?= 8000
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.DEFAULT_GOAL := help
.PHONY: help serve test test-data test-long chaos soak lint format clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kamishibai needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.12, say.")'
	@echo "==> Setting up $(VENV) (a few minutes the first time: PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

serve: $(READY) ## Run the product at http://127.0.0.1:$(PORT); makes demo models in an empty store.
	@echo "==> Starting Kamishibai with the models in $(STORE)"
	@exec $(BIN)/kamishibai up --store $(STORE) --port $(PORT)

TEST_PROCESSES ?= 4
# As the command sets it: threads that spin long starve the other tests.
test: export GOMP_SPINCOUNT = 1000
test: lint ## Check style, types, import rules and run all tests that need no data sets.
	@echo "==> Running the tests"
	@$(BIN)/pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 12 --durations-min 10

test-data: $(READY) ## Run the tests that need the real data sets in the folder KAMISHIBAI_TEST_DATA.
	@test -d "$$KAMISHIBAI_TEST_DATA" || { echo "Set KAMISHIBAI_TEST_DATA to the folder with the data sets."; exit 2; }
	@$(BIN)/pytest -q -m data

test-long: $(READY) ## Run the tests that take minutes.
	@GOMP_SPINCOUNT=1000 $(BIN)/pytest -q -m long

SEED ?= $(shell date +%s)
chaos: $(READY) ## Kill all parts under load for some ten minutes, and check that no promise is broken (SEED=1, say).
	@$(BIN)/python -m tests.chaos --seed $(SEED) --jobs 5000 --kills 10

MINUTES ?= 30
soak: $(READY) ## Run the product under a steady load, and check that memory, descriptors, Redis and logs stay within limits.
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

lint: $(READY) ## Check style, types and import rules.
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "make format mends that"; exit 1; }
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> import-linter"
	@$(BIN)/lint-imports --no-cache

format: $(READY) ## Format the code.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove the environment and what the tools left; the store stays.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
