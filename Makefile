# From a bare checkout: `make demo` runs the chain, `make test` passes the tests, `make help` lists the rest.
# They need Python >= 3.11 with pip, and no root. CONTRIBUTING.md has the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
# More words for pytest: make test PYTEST='--durations 20'.
PYTEST ?=
WORKERS ?= -n 3 --dist loadfile --no-loadscope-reorder
# The folder of stills, for `make nanobragg`. Where it has a model of the crystals, their pixels are modelled too.
DATA ?=
# The revision that `make same` compares with, and the chain it runs.
BASE ?=
CHAIN ?= tiny
RENAMED ?= tests/workflow/renamed.yaml
FACTORS = {model: $(DATA)/model.pdb, k_sol: 0.0}
MODEL = $(if $(wildcard $(DATA)/model.pdb),--config 'structure_factors=$(FACTORS)')

BIN := $(VENV)/bin
READY := $(VENV)/.ready
CCTBX := .venv-cctbx
export PATH := $(abspath $(BIN)):$(PATH)
# A chain starts hundreds of processes: none compiles what another has compiled.
unexport PYTHONDONTWRITEBYTECODE
# Halves compiling, and slows the brute-force engine down: for tests that compile much and run little (decision 27).
QUICK_TO_COMPILE := XLA_FLAGS='--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
FOLLOW := --quiet host 2>&1 | spreadflow watch
SITE := sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header $(LOCK_FLAGS)

TOOLS := lint-style lint-types lint-layers lint-workflow lint-docs

.PHONY: help setup demo spread-demo nanobragg cctbx cctbx-or-not test check quick long faults same lint $(TOOLS) format docs config lock clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make the virtual environment from the lock (the others do it themselves)

$(READY): requirements-uv.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock && \
	  UV_HTTP_TIMEOUT=20 UV_HTTP_RETRIES=1 \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock || \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock  # uv is 8 times faster, pip enough
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 -x '/tests/' $(VENV)/lib || true  # or each process would
	touch $@

demo: $(READY)  ## the whole chain on simulated stills, then the table of what came out
	snakemake --cores $(CORES) --configfile config/demo.yaml $(FOLLOW)
	spreadflow table results/demo

spread-demo: $(READY)  ## from images to f', f'' of each iron, with controls: 200 shots
	snakemake --cores $(CORES) --configfile config/demo.yaml config/spread-demo.yaml $(FOLLOW)
	spreadflow table results/spread-demo

nanobragg: $(READY)  ## the chain on stills of another simulator: make nanobragg DATA=<folder>
	@test -n "$(wildcard $(DATA)/*.nxs)" || { echo "DATA is '$(DATA)': give the folder of the .nxs files: make nanobragg DATA=<folder>" >&2; exit 2; }
	spreadflow manifest --run nanobragg_c2 --offset-adu 10 --out data/nanobragg_c2/manifest.json $(DATA)/*.nxs
	snakemake --cores $(CORES) $(MODEL) --configfile config/nanobragg.yaml $(FOLLOW)
	spreadflow table results/nanobragg

cctbx: $(CCTBX)/.ready  ## cctbx in an environment of its own: a judge of structure factors, for the tests alone

$(CCTBX)/.ready: requirements-cctbx.lock | $(READY)
	test -x $(CCTBX)/bin/python || $(BIN)/python -m venv --without-pip $(CCTBX)
	uv pip install --quiet --no-deps --require-hashes --python $(CCTBX)/bin/python -r $<
	touch $@

test: $(READY)  ## everything but `long`: lint, unit tests, stages, whole chains, MPI, Slurm where it can be had
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint cctbx-or-not
	$(QUICK_TO_COMPILE) pytest -m "not long" $(WORKERS) --tiers warn $(PYTEST)

cctbx-or-not:
	@$(MAKE) --no-print-directory cctbx || echo "no cctbx here: its test is skipped"

check: $(READY)  ## the developer's loop, two minutes: lint, and all tests that take less than a second
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint quick

quick: $(READY)
	$(QUICK_TO_COMPILE) pytest -m "not stage and not chain and not long" $(WORKERS) --tiers error $(PYTEST)

long: $(READY)  ## measurements that take minutes
	pytest -m long $(PYTEST)

faults: $(READY)  ## ranks that die, full disks, wrong launchers, hostile paths: docs/faults.md (more in `long`)
	pytest -m "not long" tests/faults tests/mpi/test_parallel.py tests/stages/test_readiness.py \
	  tests/workflow/test_faults.py tests/workflow/test_workflow.py $(PYTEST)

same: $(READY)  ## prove that results are those of another revision: make same BASE=<revision> [CHAIN=demo] [RENAMED=<file>]
	@test -n "$(BASE)" || { echo "BASE is empty: make same BASE=<revision>" >&2; exit 2; }
	python tests/workflow/same.py $(BASE) --chain $(CHAIN) --renamed $(RENAMED)

lint: $(READY)  ## format, lint, types, import layers, workflow, containers, links: tools side by side
	@$(MAKE) --no-print-directory -j 2 --output-sync=target $(TOOLS)

lint-style:
	ruff format --check .
	ruff check .
	hadolint containers/*.Dockerfile

lint-types:
	mypy

lint-layers:
	lint-imports

lint-workflow:
	snakefmt --check Snakefile workflow

lint-docs:  # reads every page and follows every link, writes nothing that stays
	trees=$$(mktemp -d) && trap 'rm -rf "$$trees"' EXIT && $(SITE) --builder dummy --doctree-dir "$$trees" . "$$trees"

format: $(READY)  ## format the code
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

docs: $(READY)  ## the documents as a site: site/index.html
	$(SITE) --builder html --fresh-env --doctree-dir .cache/docs . site
	cp site/README.html site/index.html

config: $(READY)  ## write config/config.yaml and the generated docs from the code
	spreadflow config > config/config.yaml
	python docs/generate.py

lock: $(READY)  ## resolve the dependencies of pyproject.toml (add LOCK_FLAGS=--upgrade for newer ones)
	echo uv | $(LOCK) - -o requirements-uv.lock
	printf 'hatchling\neditables\n' | $(LOCK) pyproject.toml - --extra mpi --extra slurm -o requirements.lock
	$(LOCK) requirements.lock pyproject.toml --extra cuda -o requirements-cuda.lock
	$(LOCK) requirements.lock pyproject.toml --extra rocm -o requirements-rocm.lock
	$(LOCK) requirements.lock pyproject.toml --extra dev -o requirements-dev.lock
	printf 'cctbx-base\nnumpy\nsix\n' | $(LOCK) --no-deps - -o requirements-cctbx.lock

clean:  ## remove data and results, keep the environment
	rm -rf data results site .snakemake .cache
