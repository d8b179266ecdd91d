# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

COLLECTION := .collections/ansible_collections/ephemera/preview
TESTBED := tests/testbed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.collections
export PYTHONDONTWRITEBYTECODE := 1
export RUFF_CACHE_DIR := $(CURDIR)/.ruff_cache

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- demo ------------------------------------------------------------------------------

.PHONY: demo demo-down
TARGET := docker
demo: NAMES = python:3.13-slim postgres:17 redis:8 $(if $(filter docker,$(TARGET)),traefik:v3.7)
demo: venv engine images ## Bring up two previews of the example app (TARGET=kubernetes: in a cluster)
	$(TESTBED)/demo up $(TARGET)

demo-down: venv ## Remove what `make demo` made (TARGET=kubernetes: what that made in a cluster)
	$(TESTBED)/demo down $(TARGET)

# --- tests -----------------------------------------------------------------------------

.PHONY: test checks lint package unit molecule integration bench
test: venv ## Everything that CI runs; an engine started for it is stopped (KEEP_ENGINE=1: kept)
	@$(TESTBED)/engine run $(TESTBED)/leftovers run $(MAKE) --no-print-directory checks

# The first ones need none of the programs, and leave a processor idle.
checks:
	@$(MAKE) --no-print-directory programs & \
	$(MAKE) --no-print-directory lint unit molecule integration; code=$$?; wait; exit $$code

lint: venv ## Style, types, and what Galaxy and ansible-test ask of a collection
	ruff check .
	ruff check --target-version py38 --select F,FA102 plugins/modules plugins/module_utils
	mypy -p ansible_collections.ephemera.preview.plugins.module_utils
	yamllint --strict .
	antsibull-changelog lint
	antsibull-changelog lint-changelog-yaml changelogs/changelog.yaml
	ansible-lint --strict
	$(TESTBED)/sanity
	$(MAKE) --no-print-directory package

package: venv ## Build the collection into tests/output, and let Galaxy's importer judge it
	rm -rf tests/output/package
	ansible-galaxy collection build --output-path tests/output/package
	cd tests/output/package && python -m galaxy_importer.main *.tar.gz

unit: venv .venv-2.19/stamp ## Tests of pure code, on the newest and the oldest ansible-core (ARGS="-k …")
	pytest tests/unit -q --numprocesses 2 $(ARGS)
	PATH=$(CURDIR)/.venv-2.19/bin:$$PATH pytest tests/unit -q --numprocesses 2 $(ARGS)

# As the tests of the cluster do: where none can be had, only CI fails.
molecule: SCENARIOS = $(if $(CI)$(KUBECONFIG)$(shell command -v kind)$(filter 0,$(shell id -u)),--all,--scenario-name docker)
molecule: venv engine images ## The playbooks by themselves, against the engine and the cluster
	molecule test $(SCENARIOS)

# Two at once: one on the Docker host, one in the cluster.
integration: venv engine images ## Real playbooks against the real engine and cluster (ARGS="-k …")
	$(TESTBED)/cluster run pytest tests/integration --numprocesses 2 --dist loadgroup $(ARGS)

bench: venv engine images ## How long previews take, compared with docker compose and kubectl
	python tests/bench/bench.py $(ARGS)
	python tests/bench/bench_kubernetes.py $(ARGS)

# --- what these stand on ---------------------------------------------------------------

.PHONY: venv engine images programs cluster cluster-down clean
venv: .venv/stamp | $(COLLECTION) ## The virtual environment .venv, and the collection where Ansible finds it

engine: ## A Docker engine: the one that is there, else (root on Debian) one started here
	@$(TESTBED)/engine

images: venv engine ## The base images: those there, else pulled, else made from packages
	@$(TESTBED)/images $(NAMES)

programs: venv ## Build (or pull) what a cluster runs, BuildKit and cert-manager: minutes the first time
	@$(TESTBED)/cluster build
	@python $(TESTBED)/buildkitd.py
	@python $(TESTBED)/cert_manager.py

cluster: venv ## A Kubernetes cluster: that of KUBECONFIG, else by kind, else (root on Debian) one node here
	@$(TESTBED)/cluster

cluster-down: venv ## Remove what `make cluster` started; what it built stays in the cache folder
	@$(TESTBED)/cluster down

clean: ## Remove the virtual environments and what tests wrote; caches and engine stay
	rm -rf .venv .venv-2.19 .collections .ansible tests/output
	find . -name __pycache__ -prune -exec rm -rf '{}' +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/stamp: tests/requirements.txt
	$(TESTBED)/venv .venv $< 3.14 3.13 3.12 3.11
	touch $@

.venv-2.19/stamp: tests/requirements-2.19.txt
	$(TESTBED)/venv .venv-2.19 $< 3.12 3.11 3.13
	touch $@

$(COLLECTION):
	mkdir -p $(@D)
	ln -s ../../.. $@
