# make demo    train a real grid, fit the law, verify its prediction (about three minutes on two cores)
# make test    everything the tests need, then the tests
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# one thread per process and no network: the same on every machine; compiled files are kept, since a
# hundred processes start
TEST_ENV := PYTHONDONTWRITEBYTECODE= WANDB_MODE=offline HF_HUB_OFFLINE=1 MPLBACKEND=Agg OMP_NUM_THREADS=1

# mkdocs-material prints news of its successor
SITE_ENV := NO_MKDOCS_2_WARNING=1 PYTHONPATH=.

.PHONY: help setup demo test test-notebooks test-slow test-slurm lint types bench notebooks site serve constraints clean
help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## make .venv from pinned versions (about two minutes, 1.4 GB)

demo: setup  ## the main job on an embedded example; again: finds its finished runs
	$(BIN)/scaling demo

test: $(VENV)/.ready-test  ## set up what is missing and run the tests
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile

test-notebooks: $(VENV)/.ready-test  ## execute every notebook and compare with what is kept (about a minute)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m notebook tests/test_notebooks.py

test-slow: $(VENV)/.ready-test  ## the slower tests too
	$(TEST_ENV) $(BIN)/python -m pytest -m "slow or not slow"

test-slurm: $(VENV)/.ready-test  ## a private Slurm on this machine, installed where that may be; else says why not
	$(TEST_ENV) $(BIN)/python -m pytest -m slurm tests/test_slurm.py $(ARGS)

lint: setup  ## ruff: errors and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy
	$(BIN)/mypy

bench: setup  ## measure start-up, throughput and fits; benchmarks/README.md shows the latest
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.throughput
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fitting
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth

site: $(VENV)/.ready-test  ## the documentation as a site, in site/; a broken link is an error
	$(SITE_ENV) $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html in a browser; searching needs the site served: make serve"

serve: $(VENV)/.ready-test  ## the same on http://127.0.0.1:8000, built again when a page changes
	$(SITE_ENV) $(BIN)/python -m mkdocs serve

notebooks: $(VENV)/.ready-test  ## run the notebooks and keep what they show (NAME=inspect_sweep: one)
	$(BIN)/python notebooks/execute.py $(NAME)

constraints:  ## resolve the pinned versions again (needs uv)
	(sed -n '/^#/p' constraints.txt; echo 'torch==2.13.0' | uv pip compile --universal --python-version 3.10 \
		--all-extras -c - pyproject.toml --no-header --no-annotate -q) > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache site

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "setup: needs Python 3.10 to 3.13; $(PY) is $$($(PY) --version 2>&1). Say which, e.g. make setup PY=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@echo "setup: installing pinned packages into $(VENV) (about two minutes, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,slurm]"
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,slurm,hf,ray,measures,tune,docs]"
	touch $@
