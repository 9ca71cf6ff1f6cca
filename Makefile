# Everything lands in .venv, .cache and node_modules of this folder. Only `install` needs root.
.DEFAULT_GOAL := help
.PHONY: help run test check docs soak bench install deb bundle setup peers clean
.DELETE_ON_ERROR:

# Arguments for the command that a target runs, as in: make run ARGS="--seconds 20", make test ARGS="-k journal"
ARGS ?=
# Where `make install` installs; DESTDIR is put before every path.
PREFIX ?= /opt/ds-gateway
DESTDIR ?=
export DESTDIR PREFIX PYTHON

# The demo and the tests find a broker that was unpacked here, and Debian's in /usr/sbin, which is not on a
# normal user's PATH.
export PATH := $(PATH):/usr/sbin:/sbin:$(CURDIR)/.cache/peers/mosquitto/bin

# Scripts in .venv name the folder they were made in: a copied or moved tree starts anew.
$(shell [ ! -e .venv/made-in ] || [ "$$(cat .venv/made-in)" = "$$(pwd)" ] || rm -rf .venv)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup ## set up all that is needed and run the demo (ARGS="--seconds 20 --no-faults --json")
	@tools/setup-peers mosquitto
	.venv/bin/ds-gateway demo $(ARGS)

# Most tests wait for something: four processes wait side by side. A file is run by one of them, as its tests share
# servers and installations; tests/conftest.py says which files come first. The last -n counts: ARGS="-n 0 --pdb".
test: setup peers ## set up all that is needed and run the tests (ARGS="-k journal")
	.venv/bin/pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not soak" $(ARGS)

# Tests start hundreds of interpreters. Where this is set, each of them compiles the whole source again.
test soak: export PYTHONDONTWRITEBYTECODE =

check: setup docs ## lint, formatting, types and the documentation's links
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# With --quiet MkDocs would not count its warnings, and none would be an error.
docs: setup ## the documentation as a site in build/site; what leads nowhere is an error
	.venv/bin/mkdocs build

soak: setup peers ## the long tests
	.venv/bin/pytest -m soak $(ARGS)

bench: setup peers ## measure what the README claims
	.venv/bin/python benchmarks/uplink.py $(ARGS)
	.venv/bin/python benchmarks/decoding.py $(ARGS)
	.venv/bin/python benchmarks/client.py $(ARGS)
	.venv/bin/python benchmarks/server.py $(ARGS)

install: ## as root: the service with its own Python environment in PREFIX (/opt/ds-gateway)
	@tools/install-service

deb: setup ## dist/ds-gateway_VERSION_ARCHITECTURE.deb (ARCHITECTURE=arm64 for another machine)
	@tools/make-deb

bundle: setup ## dist/ds-gateway-VERSION-bundle-ARCHITECTURE.tar.gz: what machines without a network need
	@tools/make-bundle

setup: .venv/made-in ## the Python environment in .venv
	@:

peers:
	@tools/setup-peers mosquitto strace systemd-analyze chromium npm

.venv/made-in: pyproject.toml requirements-dev.txt tools/setup-python tools/make-venv
	@tools/setup-python

clean: ## remove everything that was made here
	rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/peers/*/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
