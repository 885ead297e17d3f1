# Every target sets up what it needs in .venv first; a fresh clone needs nothing but Python >= 3.11 and make.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SUITES := tests/unit tests/properties tests/conform tests/cli tests/golden tests/wrong tests/house tests/claims

export OMP_NUM_THREADS ?= 1
export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help demo test lint types claims deep bench dist clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F '\t' '{printf "make %-8s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## the whole job on embedded real data, with a report at the end
	$(BIN)/sparsify demo

test: $(STAMP)  ## every test but the slow ones
	HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(SUITES)

lint: $(STAMP)  ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

claims: $(STAMP)  ## what papers say, tested small, slow ones included
	HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest -n $(WORKERS) -m '' tests/claims

deep: $(STAMP)  ## every test, slow ones included, many more examples of each property
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -n $(WORKERS) -m '' --timeout=3600 $(SUITES)

bench: $(STAMP)  ## run every benchmark
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

dist: $(STAMP)  ## build the wheel, install it alone into an empty environment and try it
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	@set -e; here="$$PWD"; there="$$(mktemp -d)"; trap 'rm -rf "$$there"' EXIT; set -x; \
	$(PYTHON) -m venv "$$there/env"; \
	"$$there/env/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt "$$here"/dist/*.whl; \
	mkdir "$$there/work"; cd "$$there/work"; \
	"$$there/env/bin/sparsify" --help; \
	"$$there/env/bin/sparsify" demo --quick

clean:  ## remove the environment, builds and caches; keeps runs/
	rm -rf $(VENV) dist build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
