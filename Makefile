# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
# Passed on to pip, for a CPU-only torch say:
#   make train PIP_FLAGS="--extra-index-url <the index of CPU builds>"
PIP_FLAGS ?=
# A test resolves the dependencies again and must ask the same index.
export PIP_FLAGS
# Flags of the run: make train ARGS="--train.steps 40"; or of pytest: make test ARGS="-n 8"
ARGS ?=
BIN := .venv/bin

.PHONY: setup train up down test lint

setup: .venv/.installed

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--upgrade --upgrade-strategy eager $(PIP_FLAGS) -e '.[dev]'
	touch $@

train: setup
	$(BIN)/python flows/train_flow.py $(ARGS)

# A Prefect server, a worker, the runs' pages, deployments and automations on this machine.
up: setup
	$(BIN)/visual-r1 up

down:
	$(BIN)/visual-r1 down

# Two workers, a file on one of them and the files in their order: the slow ones come first. A worker
# that dies ends the run and names its test; to replace one, xdist 3.8 may wait for ever.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
