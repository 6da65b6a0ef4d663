# Every target builds the virtual environment first, so a fresh clone needs Python 3.11+ and gcc, nothing else.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS_SERVER := http://127.0.0.1:8265
OUTPUT ?= runs/demo
INPUT ?= $(OUTPUT)/world
ARGS ?=
TESTS ?= tests
# Test files run beside each other in this many processes, about three gigabytes of memory each; 0: in one.
LANES ?= 3

# make train: what, how large, from which data (default: the demo's world, made if absent), on how many workers.
STAGE ?= sft
PRESET ?= tiny
DATA ?= runs/demo/data
RUNS ?= runs/train
WORKERS ?=
RESUME ?= auto
DRY_RUN ?=

# make serve: which model (default: the one that comes with the project), and where.
MODEL ?= model/shipped/tiny
PORT ?= 8000

# Ray 2.60 turns token auth on by default. One mode everywhere on one machine; production keeps `token`.
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0
export PYTHONUNBUFFERED := 1
# Jobs and tests start hundreds of processes, each of which would compile the project anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test lint format curate train tiny serve cluster-up cluster-down clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Build .venv with everything the project needs

# The pip of Python 3.11 takes a minute longer to choose versions. Compiled by all cores, where pip takes one, but for tests
# and what is large and seldom imported; a few packages carry templates that are no Python, and stay as they are.
UNCOMPILED := tests?|testing|transformers/models|diffusers/(models|pipelines)|_inductor|moto/[a-z]*|databricks|fontTools|mypyc?
UNCOMPILED := /($(UNCOMPILED)|narwhals|openai|pip|pygments|rllib|setuptools|sklearn|timm|tune)/
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TOLD := 2>&1 | (grep -v '^WARNING: Location' || true); exit $${PIPESTATUS[0]}
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25' $(TOLD)
	$(PIP) --no-compile -e '.[dev]' $(TOLD)
	@$(BIN)/python -m compileall -q -j 0 -x '$(UNCOMPILED)' $(VENV)/lib model pipelines platform jobs > /dev/null || true
	@echo 'export RAY_API_SERVER_ADDRESS="$${RAY_API_SERVER_ADDRESS:-$(JOBS_SERVER)}"' >> $(BIN)/activate
	@touch $@

demo: setup ## Curate a small world, adapt the model that comes with the project, make a clip and judge it
	$(BIN)/python -m jobs.demo --output $(OUTPUT) $(ARGS)

test: setup ## Run every test, of which one is `make lint`  [TESTS=tests/curation LANES=1 ARGS="-k name"]
	$(BIN)/python -m pytest $(TESTS) -n $(LANES) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## ruff, mypy and import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Rewrite the code as ruff would
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

curate: setup ## Curate INPUT=folder into OUTPUT=folder  [ARGS="--recipe sft dedup.exact=false"]
	$(BIN)/python jobs/curate.py --input $(INPUT) --output $(OUTPUT) $(ARGS)

train: setup $(if $(filter runs/demo/data,$(DATA)),runs/demo/data/datasets/default/manifest.parquet) ## Run STAGE=… and what it stands on  [PRESET=… DATA=… RUNS=… WORKERS=… RESUME=never DRY_RUN=1]
	$(BIN)/python jobs/train.py --stage $(STAGE) --preset $(PRESET) --data $(DATA) --output $(RUNS) \
		--resume $(RESUME) $(if $(WORKERS),--workers $(WORKERS)) $(if $(DRY_RUN),--dry-run) $(ARGS)

tiny: setup ## Train a small model on a plain world, from nothing: hours on two cores, resumable  [ARGS="joint.steps=…"]
	$(BIN)/python -m jobs.tiny --output $(if $(filter runs/demo,$(OUTPUT)),runs/tiny,$(OUTPUT)) $(ARGS)

serve: setup ## Serve MODEL=folder on http://127.0.0.1:8000; jobs survive a restart  [PORT=… ARGS="--files …"]
	@test -f $(MODEL)/model_index.json || \
		{ echo "$(MODEL) holds no model: run make demo (minutes) or make tiny (hours), or name one with MODEL=…"; exit 1; }
	$(BIN)/python jobs/serve.py --model $(MODEL) --port $(PORT) $(ARGS)

runs/demo/data/datasets/default/manifest.parquet: | $(STAMP)
	$(BIN)/python -m jobs.demo --output runs/demo --only data

cluster-up: setup ## Start a one-machine Ray cluster on loopback (jobs on http://127.0.0.1:8265)
	PATH="$(CURDIR)/$(BIN):$$PATH" RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 $(BIN)/ray start --head \
		--node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1 --disable-usage-stats > /dev/null
	@for attempt in 1 2 3 4 5 6; do $(BIN)/ray job submit --address $(JOBS_SERVER) -- true > /dev/null 2>&1 && exit 0; done; \
		echo "Ray is up and takes no jobs: /tmp/ray/session_latest/logs/dashboard_agent.log says why"; exit 1
	@echo "A Ray cluster of this machine is up, reachable from this machine alone ($(JOBS_SERVER))."
	@echo "  source $(VENV)/bin/activate      # puts ray on the path and tells it where jobs go"
	@echo "  ray job submit -- python jobs/curate.py --input $(CURDIR)/films --output $(CURDIR)/data"
	@echo "  make cluster-down"

cluster-down: setup ## Stop it, and every other Ray of yours on this machine
	$(BIN)/ray stop > /dev/null

clean: ## Remove caches and demo runs; the environment stays
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
