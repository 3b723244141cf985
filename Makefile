# Everything there is to do, by name. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PYTEST := $(BIN)/pytest -m "not long"
# These measure time or memory: nothing else may run beside them.
ALONE := $(addprefix tests/faults/test_,downloads.py lines_and_memory.py stopping.py)
# Two at a time, a file of tests at once, those first that take longest (tests/weights.json): else the last of them has
# one processor wait for it. TEST_WEIGHTS=1 make test measures the files anew.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# What fails beside other tests is run once more by itself, and has to pass there: kills, cut lines and time limits
# fail now and then for want of a processor, a fault fails twice. The first failure stays in sight.
tried = $(PYTEST) $(1) --durations=15 $(2) || { [ $$? -eq 1 ] && echo "Once more, by themselves:" && \
	$(PYTEST) --last-failed --last-failed-no-failures none $(2); }
JS := tests/e2e/js
PEERS := benchmarks/js
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help setup run demo test test-long check format bench bench-downloads bench-media faults soak docs lock clean

help: ## List the targets
	@echo "Tidemill: resumable uploads of large videos in, finished files out, nothing left behind."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/python.ok:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Tidemill needs Python 3.11 or newer; point to one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.ok: $(VENV)/python.ok requirements/run.txt pyproject.toml
	@echo "Installing what Tidemill needs (a minute, the first time)"
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.ok: $(VENV)/run.ok requirements/dev.txt
	@echo "Installing what the checks and tests need"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/system.ok: scripts/system_packages.sh
	@mkdir -p $(VENV)
	@bash scripts/system_packages.sh
	@touch $@

$(JS)/node_modules/.ok: $(JS)/package.json $(JS)/package-lock.json $(VENV)/system.ok
	@echo "Installing the JavaScript clients"
	@cd $(JS) && npm ci --no-audit --no-fund --silent
	@touch $@

setup: $(VENV)/run.ok ## Make .venv with everything Tidemill needs; the command is .venv/bin/tidemill
	@echo "Ready: $(BIN)/tidemill --help"

run: $(VENV)/run.ok ## Set everything up and start Tidemill on http://127.0.0.1:8000
	@exec $(BIN)/tidemill serve

demo: $(VENV)/run.ok ## The main job end to end on a real clip, with the bytes on disk before, during and after
	@exec $(BIN)/tidemill demo

test: $(VENV)/dev.ok $(VENV)/system.ok $(JS)/node_modules/.ok ## Set up what the tests need and run them all
	$(call tried,$(TWO),tests/architecture tests/unit tests/contract tests/api tests/conformance tests/integration)
	$(call tried,$(TWO),tests/e2e tests/faults $(addprefix --ignore=,$(ALONE)))
	$(call tried,,$(ALONE))

check: $(VENV)/dev.ok ## Format, lint, types, imports, migrations, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_migrations.py
	$(BIN)/python scripts/generate_docs.py --check

format: $(VENV)/dev.ok ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(PEERS)/node_modules/.ok: $(PEERS)/package.json $(PEERS)/package-lock.json $(VENV)/system.ok
	@echo "Installing the server that uploads are compared with"
	@cd $(PEERS) && npm ci --no-audit --no-fund --silent
	@touch $@

bench: $(VENV)/dev.ok $(PEERS)/node_modules/.ok ## How fast a byte comes in, beside other servers (ARGS=--quick, ARGS=--write)
	$(BIN)/python -m benchmarks.uploads $(ARGS)

bench-downloads: $(VENV)/dev.ok ## How fast a stored file goes out, beside nginx and FileResponse (ARGS=--quick, ARGS=--write)
	$(BIN)/python -m benchmarks.downloads $(ARGS)

bench-media: $(VENV)/dev.ok ## What renders, trims and joins cost beside plain FFmpeg (ARGS=--quick, ARGS=--write)
	$(BIN)/python -m benchmarks.media $(ARGS)

test-long: $(VENV)/dev.ok $(VENV)/system.ok $(JS)/node_modules/.ok ## The long forms: more of the same, for an hour or so
	$(BIN)/pytest -m long --timeout 1800 --durations=0 tests

faults: $(VENV)/dev.ok $(VENV)/system.ok $(JS)/node_modules/.ok ## Only the fault tests: kill -9, cut lines, full disks
	$(PYTEST) --durations=15 tests/faults

soak: $(VENV)/dev.ok ## Ten minutes of mixed traffic; memory, descriptors, threads and bytes at start and end
	$(BIN)/python benchmarks/soak.py $(ARGS)

docs: $(VENV)/dev.ok ## Write the generated pages anew (settings, errors, metrics, .env.example)
	$(BIN)/python scripts/generate_docs.py

lock: $(VENV)/dev.ok ## Lock the dependencies anew after a change of pyproject.toml
	$(COMPILE) pyproject.toml requirements/build.in -o requirements/run.txt
	$(COMPILE) pyproject.toml requirements/build.in --group dev --extra postgres -c requirements/run.txt -o requirements/dev.txt

clean: ## Remove what was made here: environments, caches, the demo's data (never ./data)
	rm -rf $(VENV) $(JS)/node_modules $(PEERS)/node_modules demo-data benchmark-* soak-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
