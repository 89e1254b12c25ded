# One command each; `make check` is what CI runs.
PYTHON ?= python3

.PHONY: check test lint types contract ledger bench catalogue format docs

check: lint types contract test

test:
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

contract:
	lint-imports

ledger:
	$(PYTHON) -m benchmarks.ledger

bench:
	$(PYTHON) -m benchmarks.startup

catalogue:
	$(PYTHON) -m tools.build_catalogue --models ../shared/models

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

docs:
	$(PYTHON) -m mkdocs build --strict
