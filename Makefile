# `make demo` runs the main job, `make test` the tests but the slow ones, `make lint` what CI checks beside them.
# Each makes .venv first where it is missing.
PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin

.PHONY: demo test test-slow lint format clean

.venv/installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'  # Python compiles what it imports
	touch $@

demo: .venv/installed
	$(BIN)/vilbert demo --output "$(DEMO)"

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(DEMO) build *.egg-info
