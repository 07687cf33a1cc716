# `make` alone lists what there is to do.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test long lint reference bench picture chaos clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## The virtual environment .venv with everything in it

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Dharma Tasks needs Python 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv; about a minute"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[local,flower,metrics,check,dev,bench]'
	@touch $@

demo: setup ## Engines, data, a worker, Flower, every migration; then all is ended
	@$(BIN)/python -m dharma_tasks.local.demo

up: setup ## The same, and it goes on running for you to look at
	@$(BIN)/python -m dharma_tasks.local.demo up

down: setup ## End what `make up` started; the data stays in .local
	@$(BIN)/python -m dharma_tasks.local.demo down

# Hundreds of processes would each compile the package anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup ## The tests, in two processes with four real engines each; ARGS="-k name" for some
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

long: export PYTHONDONTWRITEBYTECODE :=
long: setup ## The tests that take longest, and those of TLS and of rights; a change passes both
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'long and not campaign' $(ARGS)

lint: setup ## Format, rules and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

reference: setup ## docs/reference.md and the JSON Schemas, from the models
	@$(BIN)/python -m dharma_tasks.reference

bench: setup ## Dharma Tasks beside other ways to do the same; QUICK=1 tries it
	@$(BIN)/python -m benchmarks $(if $(QUICK),--factor 0.01 --rounds 2) $(NAMES)

picture: setup ## docs/migrations-page.png anew, from a real run; needs Chromium
	@$(BIN)/python scripts/picture.py docs/migrations-page.png

KILLS ?= 100
MINUTES ?= 45
LOAD_MINUTES ?= 10
SUBMITTERS ?= 50
WORKERS ?= 20

chaos: setup ## Faults at random instants, then load: KILLS=100 SEED=n MINUTES=45 LOAD_MINUTES=10
	@$(BIN)/python -m pytest tests/unit/test_hostile_files.py --hypothesis-profile long
	@$(BIN)/python -m pytest -m campaign
	@$(BIN)/python -m benchmarks.chaos --kills $(KILLS) --minutes $(MINUTES) \
	  --load-minutes $(LOAD_MINUTES) --submitters $(SUBMITTERS) --workers $(WORKERS) $(if $(SEED),--seed $(SEED))

clean: ## Remove .venv, .local and every cache
	@if [ -d .local ] && [ -x $(BIN)/python ]; then \
	  $(BIN)/python -m dharma_tasks.local.demo down && \
	  $(BIN)/python -m dharma_tasks.local down --delete; fi
	@rm -rf .venv .local dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
