# `make demo` and `make test` do all the set-up. PYTHON names another interpreter (3.11 or 3.12).
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
SESSION ?= sessions/demo-$(shell date -u +%Y%m%d-%H%M%S)

# torch first, alone: what is there when the rest is installed decides which build the tests run with.
# TORCH names another, for instance TORCH=torch for the newest; empty leaves it to pip.
TORCH ?= torch==2.13.0
# How many processes share the tests; 0 is this one alone.
PROCESSES ?= 2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: setup demo test lint bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Stedfast needs Python 3.11 or 3.12 with venv; name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) with $(PYTHON), about a minute …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e ".[sim,mm,label]"
	@touch $@

$(VENV)/ready-for-tests: $(VENV)/ready
	@echo "adding what the tests need to $(VENV) …"
	@test -z "$(TORCH)" || $(PIP) "$(TORCH)"
	@$(PIP) -e ".[sim,mm,gym,rl,test]"
	@touch $@

demo: setup
	@$(BIN)/stedfast run demo --output $(SESSION)
	@echo "open $(SESSION)/report.html in a browser; answer the questions with: $(BIN)/stedfast label $(SESSION)"

test: $(VENV)/ready-for-tests
	$(BIN)/python -m pytest -n $(PROCESSES)

bench: setup
	$(BIN)/python benchmarks/loop.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
