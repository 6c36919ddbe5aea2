# The verbs of this project; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN    := .venv/bin
RUN    := $(BIN)/python -m
STAMPS := .venv/.stamps
# two workers: what the smallest machine has
PYTEST := $(RUN) pytest -n 2 -q

# uv where it is and reaches an index, else pip; both compile bytecode, which the first start would pay for
install = if command -v uv >/dev/null && uv pip install --quiet --compile-bytecode --python $(BIN)/python $(1); then :; \
	else $(RUN) pip install --quiet $(1); fi

.PHONY: help setup demo test check fast bench soak docs build clean system

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/setup ## make .venv with the `aml` command in it
	@echo "ready: $(BIN)/aml --help"

demo: $(STAMPS)/demo ## set up, run notebooks/quickstart.ipynb on `local`, its first cell on `docker` too, print the runs
	@$(BIN)/python notebooks/demo.py

test: system check $(STAMPS)/azurite $(STAMPS)/mlflow ## set up, then pass lint, types, contracts and all tests
	$(PYTEST)

check: $(STAMPS)/test ## lint, format, types, import contracts
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) mypy --config-file mypy-runtime.ini
	$(BIN)/lint-imports --no-cache

# these start hundreds of processes
HEAVY := test_cli test_commands test_collection test_experiment test_follow test_magics test_run_cell test_run_object \
	test_runtime test_runtime_endings test_runtime_messages test_shims test_starting
fast: $(STAMPS)/test ## the tests that start few processes (under 30 s)
	$(PYTEST) -m "not slow and not faults and not soak" $(HEAVY:%=--ignore=tests/%.py)

bench: $(STAMPS)/test $(STAMPS)/azurite ## measure against the floors and peers (benchmarks/README.md)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

soak: $(STAMPS)/test ## the tests that take hours
	$(RUN) pytest -m soak --timeout=0 -p no:randomly

docs: $(STAMPS)/docs ## build docs/ into build/docs
	$(RUN) sphinx -q -W --keep-going docs build/docs
	@echo "open build/docs/index.html"

build: $(STAMPS)/test ## wheel and sdist into build/dist
	$(RUN) hatchling build -d build/dist

clean: ## remove what the other verbs made, .venv apart
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# program:package of what some tests use; without them those tests skip by name (AML_REQUIRE makes that a failure)
SYSTEM := strace:strace setpriv:util-linux unshare:util-linux mount:mount mkfs.ext4:e2fsprogs faketime:faketime \
	dockerd:docker.io iptables:iptables ip:iproute2 mmdebstrap:mmdebstrap sshd:openssh-server ssh:openssh-client \
	java:default-jre-headless pgrep:procps useradd:passwd fish:fish tcsh:tcsh zsh:zsh node:nodejs npm:npm

# what is installed for tests starts no service: the policy is there while the packages are set up
system:
	@export PATH="$$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive; missing=; packages=; \
	for pair in $(SYSTEM); do command -v $${pair%%:*} >/dev/null || { \
		missing="$$missing $${pair%%:*}"; packages="$$packages $${pair#*:}"; }; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		policy=/usr/sbin/policy-rc.d; \
		if [ ! -e $$policy ]; then trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; fi; \
		apt-get install -qq -y --no-install-recommends $$packages >/dev/null; \
	else echo "not here:$$missing (tests that need them are skipped; to have them: sudo apt-get install$$packages)"; fi

# Blob storage on this machine, for tests; the newest that Debian's node runs
$(STAMPS)/azurite: $(STAMPS)/setup
	@if command -v npm >/dev/null; then \
		echo "installing Azurite into .venv ..."; \
		npm install --silent --no-fund --no-audit --prefix .venv/azurite azurite@3.35.0 && touch $@ || \
			echo "Azurite cannot be installed (tests that need it are skipped)"; \
	else echo "not here: npm (tests that need Azurite are skipped)"; fi

# a server of MLflow, for tests; its seventy packages stay apart from ours
$(STAMPS)/mlflow: $(STAMPS)/setup
	@echo "installing an MLflow server into .venv/mlflow ..."; \
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv/mlflow && \
		$(BIN)/uv pip install --quiet --python .venv/mlflow/bin/python 'mlflow>=3.1,<4' && touch $@ || \
		echo "MLflow cannot be installed (tests that need its server are skipped)"

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "aml_jupyter needs Python 3.11 or newer, and $(PYTHON) is not. Name another: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) lacks venv. This line adds it:"; echo "  sudo apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(RUN) pip install --quiet 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/setup: pyproject.toml $(STAMPS)/venv
	@echo "installing aml_jupyter into .venv ..."
	@$(call install,-e '.[conda]')
	@touch $@

$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/docs: $(STAMPS)/setup
	@echo "installing what \`make $(@F)\` needs into .venv ..."
	@$(call install,--group $(@F))
	@touch $@
