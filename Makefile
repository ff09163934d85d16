# Everything a person or CI does with this repository; `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three test workers on the two cores of a small machine: the tests wait for half of their time.
WORKERS ?= 3
# How long the fault campaign goes on, and the seed of one that is to be done again.
MINUTES ?= 3
SEED ?=
# The bus of the campaign: postgres, redis or nats; the seed chooses when none is named.
BUS ?=
# Options of `make bench`; `python -m bench --help` lists them.
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo fmt check test test-faults bench bench-short docs constraints release clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(VENV)/.develop ## install Tailrace and what its tests need into .venv

demo: $(VENV)/.use ## run the main job on the embedded Postgres
	$(BIN)/tailrace demo

fmt: $(VENV)/.develop ## format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(VENV)/.develop ## lint, types, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m scripts.reference --check

test: $(VENV)/.develop ## run every test, on a real Postgres
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

test-faults: $(VENV)/.develop ## kill, freeze, cut and fill the disk under real processes (MINUTES=3)
	$(BIN)/python -m faults --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(BUS),--bus $(BUS))

bench: $(VENV)/.bench ## measure every row beside limits and peers, about 12 minutes (BENCH="--only append --full")
	$(BIN)/python -m bench $(BENCH)

bench-short: $(VENV)/.develop ## run every row for a moment, to see that it works
	$(BIN)/pytest -n $(WORKERS) tests/bench

docs: $(VENV)/.develop ## write the generated reference, and build the site in build/site
	$(BIN)/python -m scripts.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

constraints: $(VENV)/.develop ## choose the versions in constraints.txt anew
	$(BIN)/uv pip compile --universal --python-version 3.11 --quiet --no-header --no-annotate --no-emit-index-url \
		--extra local --extra archive --extra redis --extra nats --extra otel --group dev --group bench --group release --upgrade --output-file constraints.txt pyproject.toml

release: $(VENV)/.release ## build, inspect and try what is released, into dist/ (DIRTY=1: a rehearsal of the tree as it is)
	$(BIN)/python -m scripts.release $(if $(DIRTY),--dirty)

clean: ## remove the environment and what was built
	rm -rf $(VENV) dist build

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tailrace needs Python 3.11 or newer; name one: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip

$(VENV)/.use: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local]'
	@touch $@

$(VENV)/.develop: $(VENV)/.use
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev
	@touch $@

$(VENV)/.release: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group release
	@touch $@

$(VENV)/.bench: $(VENV)/.develop
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group bench
	@touch $@
