# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
PORT ?= 8000
PG ?= 18
VENV := .venv
BIN := $(VENV)/bin
LOCK := --universal --python-version 3.11 --generate-hashes --no-header
STAMP := $(VENV)/.installed

.PHONY: run test conformance mutants bench install check format lint types imports schema lock clean

run: install ## Serve the API with demo data on an embedded PostgreSQL
	$(BIN)/wallet-gql serve --demo --port $(PORT)

test: install ## Run the tests on an embedded PostgreSQL (PG=16 or 18)
	WALLET_POSTGRES_VERSION=$(PG) $(BIN)/pytest -n auto $(ARGS)

conformance: install ## Run other people's tools and clients against a real server (needs Node 20 and a JDK 17)
	$(BIN)/python tests/conformance/run.py

mutants: install ## Plant mistakes in the ledger and show which test catches each
	$(BIN)/python tests/mutants/run.py $(ARGS)

bench: install ## Measure the service beside its references, under 20 minutes (needs wrk); ARGS=--quick for a try-out
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	$(BIN)/python bench/run.py $(ARGS)

install: $(STAMP) ## Make .venv and install the locked dependencies and the command

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

check: lint types imports schema test ## Everything that CI checks

format: install ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

schema: install ## Compare schema.graphql with the code's schema
	$(BIN)/wallet-gql export-schema | diff -u schema.graphql -

lock: ## Renew the lock files (needs uv on the PATH): everything, and what the image needs
	uv pip compile $(LOCK) --extra embedded --group dev pyproject.toml -o requirements.lock
	uv pip compile $(LOCK) --constraint requirements.lock pyproject.toml -o requirements-server.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
