# Everything a newcomer needs: `make demo`, `make test`, `make dev`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CITY ?= demo
SEEDS ?= 0
PORT ?= 3000
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

# Dagster keeps its runs in SQLite, or where HOSER_KD_POSTGRES=postgresql+psycopg2://user:password@host/database says.
STORAGE := $(if $(HOSER_KD_POSTGRES),postgres,sqlite)

$(DAGSTER_HOME)/.$(STORAGE):
	mkdir -p $(DAGSTER_HOME)
	rm -f $(DAGSTER_HOME)/.sqlite $(DAGSTER_HOME)/.postgres
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml-template dagster.yaml-postgres $(DAGSTER_HOME)/.$(STORAGE)
	cat dagster.yaml-template $(if $(HOSER_KD_POSTGRES),dagster.yaml-postgres) > $@

# The whole graph for one city, in this process, into the same instance that `make dev` shows.
demo: setup
	$(BIN)/python -m dagster_project.demo --city $(CITY) --seeds $(SEEDS)

# one thread a worker: two would fight for the same cores
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

# The UI, and beside it the files of the store and TensorBoard, so that reports and curves open from it at a click.
dev: setup
	exec $(BIN)/python -m dagster_project.dev --port $(PORT)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
