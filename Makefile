# The environment is made on the first use, and again when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.ready-bench
CONFORMANCE := .conformance
PEERS := pytorch-optimizer torch-optimizer heavyball schedulefree optax
PIP := $(BIN)/pip -qq --disable-pip-version-check install -c constraints.txt

.PHONY: help demo test lint style types pytest bench conformance clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  */\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: $(READY)  ## does momentum pay on the digits? the main job on real data, about two minutes
	@$(BIN)/ravine compare digits --yes

# Types are checked beside the tests, which leave a part of the processor idle.
test: style  ## format, lint, types and tests
	@$(MAKE) --no-print-directory --jobs=2 types pytest

pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

lint: style types  ## format, lint and types

style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

bench: $(BENCH_READY)  ## measure against peers, side by side
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file; done

conformance: $(CONFORMANCE)/.ready  ## judge the optimizers of ravine and its peers, and write docs/conformance.md
	@OMP_NUM_THREADS=1 PYTHONPATH=src:tests:benchmarks $(CONFORMANCE)/bin/python -m conformance.page

clean:  ## remove caches and builds; the environment and the studies stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@echo "making the environment in .venv (torch is large, this takes a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(PIP) -e '.[dev]'
	@touch $@

$(BENCH_READY): $(READY)
	@$(PIP) -e '.[bench]'
	@touch $@

# An environment of its own, because the peers are no dependencies of ours.
$(CONFORMANCE)/.ready: pyproject.toml constraints.txt benchmarks/conformance-constraints.txt
	@echo "making the environment of the peers in $(CONFORMANCE)"
	@$(PYTHON) -m venv $(CONFORMANCE)
	@$(CONFORMANCE)/bin/pip -qq --disable-pip-version-check install -c constraints.txt \
		-c benchmarks/conformance-constraints.txt -e . $(PEERS)
	@touch $@
