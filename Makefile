# Everything on a fresh Debian 12 with Python 3.11: `make demo` to watch it, `make test` to check it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade
CASES ?= 10000000
# Else each program that a test or a bench starts compiles all modules anew (0.3 s), as no installed one does.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test fast check bench fuzz conformance spike simulate lock system clean

demo: $(VENV)/.run ## a publisher, a school and homes on this machine, to watch; ARGS=--once ends by itself
	$(BIN)/edgeshare demo $(ARGS)

test: system check ## all tests
	$(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

fast: check ## the tests that need no other programs, on all cores, in under two minutes
	$(BIN)/python -m pytest -n auto -m "not whole" $(ARGS)

check: $(VENV)/.dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## ratios against public tools
	$(BIN)/python -m bench

fuzz: $(VENV)/.fuzz ## altered bytes for every parser, 10 million; CASES=100000 for fewer, ARGS="edition range" for some
	$(BIN)/python -m tests.fuzz $(CASES) $(ARGS)

conformance: $(VENV)/.dev ## the TUF client conformance suite in SUITE=folder (tests/conformance/README.md)
	$(PYTHON) -m venv $(SUITE)/.venv && $(SUITE)/.venv/bin/pip install --quiet -e $(SUITE)
	cd $(SUITE) && .venv/bin/python -m pytest -q -c pyproject.toml tuf_conformance --entrypoint $(CURDIR)/tests/conformance/client

spike: $(VENV)/.dev ## nodes between network namespaces, all at once; needs root; ARGS="--nodes 8,24", or --help
	$(BIN)/python -m bench.spike $(ARGS)

simulate: $(VENV)/.dev ## the same ration with up to 12 million nodes; ARGS="--lab RESULTS.jsonl", or --help
	$(BIN)/python -m bench.simulate $(ARGS)

system: ## Debian's packages that tests use; needs root
	@requirements/system

lock: $(VENV)/.made ## resolve the versions anew
	$(PIP) uv
	$(BIN)/uv pip compile $(LOCK) -o requirements/run.txt requirements/build.in pyproject.toml
	$(BIN)/uv pip compile $(LOCK) -c requirements/run.txt --group dev -o requirements/dev.txt \
	  requirements/build.in pyproject.toml
	$(BIN)/uv pip compile $(LOCK) --group fuzz -o requirements/fuzz.txt

$(VENV)/.made:
	@requirements/venv $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements/run.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made requirements/dev.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

# without atheris, on another processor say, the cases are made without it
$(VENV)/.fuzz: $(VENV)/.dev requirements/fuzz.txt
	-$(PIP) --require-hashes -r requirements/fuzz.txt
	@touch $@

clean:
	rm -rf $(VENV) .fuzz .mypy_cache .ruff_cache .hypothesis
