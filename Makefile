# The few words of this repository; `make help` explains each. Needed: make, and Python 3.11 with its venv module.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo check test soak bench docs lock

PYTHON ?= python3.11
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
LOCKS := requirements/server.lock requirements/mlflow.lock requirements/dev.lock

# Numeric libraries start one thread a core unless told otherwise; beside other work that costs minutes.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
# A mirror that pip was told about is meant for uv as well.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

help: ## this list
	@echo "make WORD, where WORD is one of:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-6s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with everything, from the locked requirements (about 2 GB; minutes once, then nothing)

$(READY): pyproject.toml requirements/uv.txt $(LOCKS)
	@./requirements/setup.sh "$(PYTHON)"
	@touch $@

demo: setup ## a year in production on real flights; ARGS="--exit --report r.json", --sample 0.1, --seed N
	@$(BIN)/steersman demo $(ARGS)

check: setup ## format, lint, types, layers, sizes of files
	@failed=; for step in "ruff format --check --quiet ." "ruff check ." "mypy" "lint-imports --no-logo" "python .ci/sizes.py"; do \
	  echo "== $$step"; $(BIN)/$$step || failed="$$failed $${step%% *}"; \
	done; [ -z "$$failed" ] || { echo "check:$$failed complained"; exit 1; }

test: setup ## all tests but the long ones, two at a time; ARGS="tests/unit -k ledger"
	@$(BIN)/pytest -n 2 --dist loadgroup -m "not soak" $(ARGS)

soak: setup ## long kill, chaos and property runs
	@$(BIN)/pytest -m soak $(ARGS)

bench: setup ## measure; ARGS=startup, and whatever else bench/ has
	@test -n "$(ARGS)" || { echo "make bench ARGS=NAME, where NAME is one of:" $(basename $(notdir $(wildcard bench/*.py))); exit 1; }
	@$(BIN)/python bench/$(firstword $(ARGS)).py $(wordlist 2,99,$(ARGS))

docs: setup ## write the generated pages, then test that the documentation says what the code does
	@$(BIN)/python -m steersman.cli.manual > docs/cli.md
	@$(BIN)/python tests/docs/test_tables_are_rendered.py
	@$(BIN)/pytest tests/docs $(ARGS)

lock: setup ## resolve the requirements anew within what is locked; ARGS=--upgrade takes the newest
	@./requirements/lock.sh $(ARGS)
