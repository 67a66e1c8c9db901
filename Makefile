# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
PG ?= 18
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
LOCK := --universal --python-version 3.11 --generate-hashes --no-header
STAMP := $(VENV)/.installed

# Tests start the command hundreds of times, and each worker collects them all: nothing is compiled anew each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run reset test redis conformance mutants bench install check format lint types imports schema armour lock clean

run: install ## Serve the API with demo data on an embedded PostgreSQL (PORT=8000)
	@$(BIN)/wallet-gql serve --demo $(if $(PORT),--port $(PORT))

reset: install ## Remove the data of the embedded PostgreSQL; asks first (ARGS=--yes: does not)
	@$(BIN)/wallet-gql reset $(ARGS)

test: install ## Run the tests on an embedded PostgreSQL (PG=16 or 18)
	WALLET_POSTGRES_VERSION=$(PG) $(BIN)/pytest -n auto --dist worksteal $(ARGS)

conformance: install ## Run other people's tools and clients against a real server (needs Node 20 and a JDK 17)
	$(BIN)/python tests/conformance/run.py

mutants: install ## Plant mistakes in the ledger and show which test catches each
	$(BIN)/python tests/mutants/run.py $(ARGS)

bench: install ## Measure the service beside its references, 30 to 45 minutes (needs wrk); ARGS=--quick for a try-out
	$(PIP) --quiet -r bench/requirements.txt
	$(BIN)/python bench/run.py $(ARGS)

install: $(STAMP) ## Make .venv and install the locked dependencies and the command

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and there is no $(PYTHON). Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.12" % v)'
	@echo "Installing the packages of requirements.lock into $(VENV): once, about 20 seconds."
	@$(PYTHON) -m venv --clear $(VENV)
	@{ $(PIP) --require-hashes -r requirements.lock && $(PIP) --quiet --no-deps --no-build-isolation --editable . && touch $@; } \
		| sed -n -e 's#^Collecting \([^ ]*\).*#  \1#p' -e 's#^Processing [^ ]*/\([^ ]*\).*#  \1#p' \
			-e 's#^Installing collected packages.*#Unpacking them.#p'
	@test -e $@ || { echo "The packages were not installed; pip says above why. They come from the network: behind a proxy set HTTPS_PROXY, with a mirror PIP_INDEX_URL, and run make again." >&2; exit 1; }

check: lint types imports schema test ## Everything that CI checks

format: install ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: install
	$(BIN)/mypy
	$(BIN)/mypy --config-file bench/mypy.ini

imports: install
	$(BIN)/lint-imports

schema: install ## Compare schema.graphql with the code's schema
	$(BIN)/wallet-gql export-schema | diff -u schema.graphql -

redis: install ## Run the tests that need a Redis or Valkey (Debian: apt-get install redis-server)
	@command -v redis-server valkey-server > /dev/null || { echo "Install redis-server or valkey-server first."; exit 1; }
	$(BIN)/pytest tests/operations/test_rates_in_redis.py

armour: install ## Renew armour.json from a freshly migrated database, after a new migration
	$(BIN)/python tests/renew_armour.py

lock: ## Renew the lock files (needs uv on the PATH): everything, and what the image needs
	uv pip compile $(LOCK) --extra embedded --extra redis --group dev pyproject.toml -o requirements.lock
	uv pip compile $(LOCK) --constraint requirements.lock --extra redis pyproject.toml -o requirements-server.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
