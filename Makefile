# To use it: `make demo`, `make dev`. To change it: `make format`, `make check`, `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CITY ?= demo
SEEDS ?= 0
PORT ?= 3000
export DAGSTER_HOME := $(CURDIR)/.dagster
export PYTHONWARNINGS ?= ignore

.PHONY: setup demo dev format lint check test docs wheel lock clean

setup: $(VENV)/.installed $(VENV)/.tools $(DAGSTER_HOME)/dagster.yaml

# Byte code is made for what `make demo` and `make dev` import, on two cores; making all of it takes two minutes.
SERVERS = dagster_project.definitions, dagster_webserver.cli, dagster._daemon.cli, dagster._grpc.proxy_server
PIP = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

# What runs the pipeline, first: `make demo` and `make dev` need no more.
$(VENV)/.installed: pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON); set PYTHON to a Python 3.11 (3.12 and 3.13 are tested in part)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(BIN)/python -c "import torch" & $(PIP) -e . && wait
	$(BIN)/python -c "import hoser_kd.pipeline.stages.all, torch.utils.tensorboard, matplotlib.backends.backend_agg" & \
	$(BIN)/python -c "import $(SERVERS)"; wait
	touch $@

# What checks and tests it.
$(VENV)/.tools: $(VENV)/.installed
	$(PIP) -e '.[test,docs,serve]'
	touch $@

# Dagster keeps its runs in SQLite, or where HOSER_KD_POSTGRES=postgresql+psycopg2://user:password@host/database says.
STORAGE := $(if $(HOSER_KD_POSTGRES),postgres,sqlite)

$(DAGSTER_HOME)/.$(STORAGE):
	mkdir -p $(DAGSTER_HOME)
	rm -f $(DAGSTER_HOME)/.sqlite $(DAGSTER_HOME)/.postgres
	touch $@

# Models run one at a time on a GPU; without one, as many as the cores have threads for.
$(DAGSTER_HOME)/dagster.yaml: dagster.yaml-template dagster.yaml-postgres $(DAGSTER_HOME)/.$(STORAGE) | $(VENV)/.installed
	slots=$$($(BIN)/python -m hoser_kd.common.model_slots) && \
	cat dagster.yaml-template $(if $(HOSER_KD_POSTGRES),dagster.yaml-postgres) | sed "s/default_limit: 1$$/default_limit: $$slots/" > $@

# The whole graph for one city, in this process, in the instance that `make dev` shows.
demo: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	$(BIN)/python -m dagster_project.demo --city $(CITY) --seeds $(SEEDS)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The inner loop: lint, types, layers, words, and the tests of folders that need no training, without the examples of the
# docs, which train.
FAST := tests/test_layers.py tests/test_words.py tests/test_links.py tests/test_readme.py tests/test_cases.py tests/config tests/network \
        tests/grid tests/lmtad tests/hoser
check: lint
	$(PYTEST) $(FAST) --deselect tests/test_readme.py::test_python_blocks_run

# Everything, with the ten slowest tests at the end. Tests of a group or of a file share a worker and its fixtures.
test: setup
	$(PYTEST) --durations=10

# One thread per worker: more would compete for the same cores. Byte code is kept, because the tests start many processes.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

# The UI, the files of the store and TensorBoard, so that links in the UI open reports and curves.
dev: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	exec $(BIN)/python -m dagster_project.dev --port $(PORT)

# The documentation as a site that opens from the disk: site/index.html. A broken link is an error.
docs: setup
	$(BIN)/python docs/build_site.py

# The package as a file for machines without the checkout. Builds with the installed setuptools, so it needs no network.
wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# uv.lock with the versions of constraints.txt, after a change of dependencies.
lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python deploy/lock.py

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
