# `make demo` and `make test` do all the set-up. PYTHON names another interpreter (3.11 or 3.12).
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
SESSION ?= sessions/demo-$(shell date -u +%Y%m%d-%H%M%S)

.PHONY: setup demo test lint bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Stedfast needs Python 3.11 or 3.12 with venv; name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) with $(PYTHON), about a minute …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[sim,mm,test]"
	@touch $@

demo: setup
	@$(BIN)/stedfast run demo --output $(SESSION)
	@echo "open $(SESSION)/report.html in a browser; answer the questions with: $(BIN)/stedfast label $(SESSION)"

test: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python benchmarks/loop.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
