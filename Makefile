# `make demo` runs the main job, `make test` the tests, `make lint` what CI checks beside them.
# Each makes .venv first where it is missing.
PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin

.PHONY: demo test lint format clean

.venv/installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/vilbert demo --output "$(DEMO)"

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(DEMO) build *.egg-info
