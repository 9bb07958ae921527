# Everything a person or CI does with this repository. `make demo` and `make test` set up what they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Compiled once here, or every process of every test compiles torch again.
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
export PYTHONPATH := hack
# ONNX Runtime's wheel reports its use when it is imported; nothing here does.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help
help: ## Say what there is to make
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Two marker files: the base needs no torch, so that the demo is set up in half a minute.
.venv/base: locks/base.txt locks/uv.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r locks/uv.txt
	$(INSTALL) --require-hashes -r locks/base.txt
	$(INSTALL) --no-deps --editable .
	touch $@

.venv/all: .venv/base locks/all.txt
	$(INSTALL) --require-hashes -r locks/all.txt
	touch $@

.PHONY: setup
setup: .venv/all ## Set up .venv with everything, torch included

.PHONY: demo
demo: .venv/base ## Optimize magika, a real content classifier, on this machine
	$(BIN)/python examples/magika/prepare.py demo/magika
	$(BIN)/trimtab optimize demo/magika/model.onnx --data demo/magika --out demo/run --publish demo/published
	@echo "the winner is in demo/published, the reasons are in demo/run/report.html"

.PHONY: check
check: .venv/all ## Lint, types, import contracts, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=operator:jobs $(BIN)/lint-imports
	$(BIN)/python -m trimtab.api.schema --check

.PHONY: generate
generate: .venv/all ## Write the CRDs, schemas and reference from the models
	$(BIN)/python -m trimtab.api.schema

.PHONY: tools
tools: .venv/all ## Build Kubernetes and what the lab runs, once; they stay in a cache outside the checkout
	$(BIN)/python -m lab tools

.PHONY: test
test: .venv/all ## Run every test that needs no cluster
	$(BIN)/pytest -n 2 --dist loadfile -m "not e2e and not full"

.PHONY: cluster
cluster: .venv/all packages tools ## Build (once) and start a real Kubernetes control plane and node here
	$(BIN)/python -m lab up

.PHONY: cluster-down
cluster-down: .venv/all ## Stop it and leave nothing behind
	$(BIN)/python -m lab down

.PHONY: images
images: cluster ## Build the images from the Dockerfile and load them into the node
	$(BIN)/python -m lab images

# First, while no cluster is up, what compares the machine before and after one.
.PHONY: test-lab
test-lab: .venv/all packages tools ## Bring a second lab up and down, and look for traces
	$(BIN)/pytest -m "e2e and not full" tests/lab

# What shares the node runs one after the other; what has an API server of its own, mostly waiting, runs beside it.
.PHONY: e2e
e2e: test-lab images ## Run the suite on the cluster
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	$(BIN)/pytest -m "e2e and not full" --ignore tests/e2e --ignore tests/lab >$$log 2>&1 & beside=$$!; \
	$(BIN)/pytest -m "e2e and not full" tests/e2e --durations 10; node=$$?; \
	wait $$beside; api=$$?; cat $$log; exit $$((node || api))

# TRIMTAB_E2E_IMAGES=registry.example.com/team/trimtab-{target}:dev names what the cluster can pull. Opt-in by this target
# alone: the suite installs the chart, makes namespaces and deletes them.
.PHONY: e2e-cluster
e2e-cluster: TESTS ?= tests/e2e
e2e-cluster: .venv/all ## Run the suite on the cluster of KUBECONFIG, with images that it can pull (TRIMTAB_E2E_IMAGES)
	TRIMTAB_E2E_CLUSTER=1 $(BIN)/pytest -m "e2e and not full" $(TESTS) --durations 10

# What `make e2e-cluster` needs of a cluster is given to the lab from outside: a registry, and volumes. TESTS=tests/e2e/test_slice_a.py
# runs less of it, here as there. TRIMTAB_E2E_TORCH_IMAGE=1 adds Slice B, the image jobs-torch and, for a while, 25 GB.
.PHONY: e2e-foreign
e2e-foreign: .venv/all packages tools ## Run `make e2e-cluster` on the lab, as if it were somebody's
	PYTHONPATH=hack:tests $(BIN)/python tests/foreign.py

.PHONY: e2e-rootless
e2e-rootless: .venv/all ## Run what needs neither root nor a node: in one test pods are processes, and it says so
	$(BIN)/pytest -m "e2e and not full" --ignore tests/e2e --ignore tests/lab

# More than an hour on a core that others use too. Not in CI, which runs a seeded sample of it; every test here has an API
# server of its own.
.PHONY: test-full
test-full: .venv/all packages tools ## Replay every fault at every moment
	$(BIN)/pytest -m full --durations 10

# All five images: 9 GB in buildah's store, and 4.3 GB in dist. RELEASE="operator jobs" makes fewer.
.PHONY: release
release: .venv/all packages ## Build wheel, chart and images of one version into dist, with checksums and SBOMs
	PYTHONPATH=hack:operator $(BIN)/python hack/release.py $(RELEASE)

# Once for each release, when it is out. OF=v0.1.0 names another commit than the newest.
.PHONY: record
record: .venv/all ## Keep this version's documents, wheel and chart: the next one is tested beside them
	PYTHONPATH=hack:operator $(BIN)/python hack/record.py $(OF)

.PHONY: bench-startup
bench-startup: .venv/all ## Time `trimtab --help`
	$(BIN)/python hack/bench_startup.py

# Hours: every tool has a quarter of an hour for every model. BENCH="digits magika --seconds 300" does less.
.PHONY: bench-optimize
bench-optimize: .venv/all ## Compare `trimtab optimize` with the tools an expert would use, on a dozen models
	$(BIN)/python hack/bench_optimize.py $(BENCH)

# 11,800 Jobs three times: half an hour to hours. BENCH="--jobs 300 --profile" does less, and profiles.
.PHONY: bench-operator
bench-operator: .venv/all tools ## Run 5,000 jobs against a real API server, beside a naive operator and a bare loop
	$(BIN)/python hack/bench_operator.py $(BENCH)

.PHONY: lock
lock: .venv/base ## Resolve the dependencies again
	hack/lock.sh

# Debian's packages for the lab; a machine that has them all skips apt.
.PHONY: packages
packages:
	@missing=$$(for p in $$(cat hack/lab/packages.txt); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends -y $$missing >/dev/null; fi
