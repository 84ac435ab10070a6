# `make test` runs the tests that CI runs, `make demo` the main job. The other targets: test-slow, lint, format, docs, screenshots, lock,
# clean.
# Each target first makes the environment in VENV where it is missing or older than the lock file.
#
#   VENV  folder of the environment
#   LOCK  lock file to install from; `make test LOCK=` resolves the newest versions that setup.cfg allows
#   DEMO  output folder of `make demo`
PYTHON ?= python3
VENV ?= .venv
LOCK ?= requirements.lock
DEMO ?= demo
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile  # Python compiles what it imports

.PHONY: demo test test-slow lint format docs screenshots lock clean

$(VENV)/installed: setup.cfg pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCK),)
	$(PIP_INSTALL) --editable '.[dev]'
else
	$(PIP_INSTALL) --require-hashes --requirement $(LOCK)
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
endif
	touch $@

demo: $(VENV)/installed
	$(BIN)/vilbert demo --output "$(DEMO)"

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" --numprocesses 3 --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile thorough

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site of docs/, into site/. Broken links and unknown names in the API reference are errors.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# docs/images/browse-*.png, of the data set and the model that `make demo` wrote. Needs Chromium.
screenshots: $(VENV)/installed
	$(BIN)/python docs/screenshots.py "$(DEMO)"

# Adds what setup.cfg requires to requirements.lock and keeps the versions that it has; `make lock UPGRADE=--upgrade` takes the newest.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) uv
	$(BIN)/uv pip compile setup.cfg --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --custom-compile-command "make lock" --quiet $(UPGRADE) --output-file requirements.lock

clean:
	rm -rf $(VENV) $(DEMO) build site *.egg-info
