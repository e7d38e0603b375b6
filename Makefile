# Everything a newcomer needs: `make demo`, `make test`, `make dev`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CITY ?= demo
SEEDS ?= 0
export DAGSTER_HOME := $(CURDIR)/.dagster
export PYTHONWARNINGS ?= ignore

.PHONY: setup demo test dev lint clean

setup: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml

$(VENV)/.installed: pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml-template
	mkdir -p $(DAGSTER_HOME)
	cp dagster.yaml-template $@

# The whole graph for one city, in this process, into the same instance that `make dev` shows.
demo: setup
	$(BIN)/python -m dagster_project.demo --city $(CITY) --seeds $(SEEDS)

# one thread a worker: two would fight for the same cores
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

dev: setup
	$(BIN)/dagster dev -w workspace.yaml

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
