# The developer manual: every recipe below is one thing that a person does here.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= headwater-data
RUN := PYTHONPATH=src $(BIN)/python -m headwater.cli

help: ## list the recipes
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/run.stamp: requirements.lock | $(BIN)/uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	rm -f $(VENV)/dev.stamp
	$(MAKE) --no-print-directory $(BIN)/headwater
	touch $@

$(VENV)/dev.stamp: requirements-dev.lock | $(BIN)/uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	$(MAKE) --no-print-directory $(BIN)/headwater
	touch $@ $(VENV)/run.stamp

# The checkout itself, importable and as a command, with no build step: edits are in force at once.
$(BIN)/headwater: | $(BIN)/uv
	echo '$(CURDIR)/src' > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/headwater.pth
	printf '#!%s\nimport sys\nfrom headwater.cli import main\nsys.exit(main())\n' '$(CURDIR)/$(BIN)/python' > $@
	chmod +x $@

setup: $(VENV)/dev.stamp ## install everything that developing needs, from the hashed lock, into .venv

up: ## set up and run Headwater on this machine; Ctrl-C stops it
	@test -e $(VENV)/run.stamp -a requirements.lock -ot $(VENV)/run.stamp || $(MAKE) --no-print-directory $(VENV)/run.stamp
	@exec $(BIN)/headwater up --data $(DATA)

demo: ## load a real access log through the API and print first answers
	@test -e $(VENV)/run.stamp -a requirements.lock -ot $(VENV)/run.stamp || $(MAKE) --no-print-directory $(VENV)/run.stamp
	@$(BIN)/headwater demo --data $(DATA)

lint: setup ## style, types and import contracts
	$(BIN)/ruff format --check --quiet src tests bench
	$(BIN)/ruff check --quiet src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint ## set up and run every check and test (CI runs exactly this)
	$(BIN)/python -m pytest -n 2

bench: setup ## measure; prints a table of figures
	$(BIN)/python -m bench

docs: setup ## write the generated pages of docs/reference again
	$(BIN)/python -m headwater.cli.reference docs/reference

lock: | $(BIN)/uv ## resolve the dependencies again, with hashes and without addresses
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --python-version 3.11 --upgrade pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --python-version 3.11 --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

.PHONY: help setup up demo lint test bench docs lock
