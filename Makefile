# `make demo` and `make test` work on a fresh clone, and again; PYTHON picks the interpreter of the virtual environment.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
# of one test, which then fails with the stacks of its threads
LIMIT := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/esvit-fast demo $(ARGS)

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(LIMIT) $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

$(INSTALLED): pyproject.toml $(CONSTRAINTS) setup.py $(wildcard csrc/*.cpp csrc/cpu/* csrc/cuda/*)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) -c $(CONSTRAINTS) torch ninja "setuptools>=77,<82"
	$(PIP) -c $(CONSTRAINTS) --no-build-isolation -e ".[test,jpeg]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis esvit_fast/_C_*.so
	if [ -L esvit_fast/kernels ]; then rm esvit_fast/kernels; fi
	find esvit_fast kernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
