SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SOURCE_ROOTS := operator serving-image training-image model-bundle devcluster
# A test that fails is run once more; what failed first is printed in the summary all the same.
AGAIN := --reruns 1
CODE := $(SOURCE_ROOTS) tests bench examples manifests

##@ Use

.PHONY: demo
demo: venv ## From nothing to a model that is trained, served and guarded on a real cluster; run again to go on after a failure
	@$(PY) examples/demo.py up

.PHONY: demo-down
demo-down: venv ## Remove the demo and its cluster; keeps caches of programs and images
	@$(PY) examples/demo.py down

##@ Develop

.PHONY: test
test: check test-unit test-hostile test-api test-component test-e2e ## Everything that must hold: check and all test tiers
	@echo "make test: all tiers passed"

.PHONY: check
check: venv ## Format, lint, types, layers, generated files
	@echo "== check"
	@$(VENV)/bin/ruff format --check $(CODE)
	@$(VENV)/bin/ruff check $(CODE)
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m holdfast.api.crd --check crds
	@$(PY) serving-image/protos/generate.py --check
	@$(PY) manifests/monitoring/dashboards/generate.py --check
	@$(PY) manifests/argocd/actions.py --check

.PHONY: test-unit
test-unit: venv ## Pure code, and processes on loopback
	@echo "== unit"
	@$(PY) -m pytest -q $(AGAIN) tests/unit

.PHONY: test-hostile
test-hostile: venv ## Hostile models and requests against the real server
	@echo "== hostile"
	@$(PY) -m pytest -q $(AGAIN) tests/hostile

.PHONY: test-api
test-api: venv ## CRDs, CEL, defaults, server-side apply on a real kube-apiserver
	@echo "== api"
	@$(PY) -m pytest -q $(AGAIN) tests/api

.PHONY: test-component
test-component: venv ## The operator's process against a real control plane, without a node
	@echo "== component"
	@$(PY) -m pytest -q $(AGAIN) tests/component

.PHONY: test-e2e
test-e2e: venv ## Real pods on a real node, the operator in the cluster with its real RBAC
	@echo "== e2e"
	@$(PY) -m pytest -q $(AGAIN) tests/e2e

.PHONY: test-torch
test-torch: venv ## Estimators of PyTorch, with Debian's package of it (large; not part of `make test`)
	@echo "== torch"
	@$(PY) -c 'from holdfast_devcluster import packages; packages.require(["torch"], print)'
	@$(PY) -W ignore -c 'import tests.pytorch.conftest, torch; print("PyTorch", torch.__version__)'
	@$(PY) -m pytest -q tests/pytorch

.PHONY: test-torch-e2e
test-torch-e2e: venv ## Networks of PyTorch in the cluster, by one pod and by two (builds a large image; part of no other target)
	@echo "== torch, e2e"
	@HOLDFAST_CAMPAIGN=1 $(PY) -m pytest -q tests/e2e/test_pytorch.py

.PHONY: test-tensorflow
test-tensorflow: venv ## Estimators of Keras, with TensorFlow in an environment of its own (1.5 GB; not part of `make test`)
	@echo "== tensorflow"
	@python=$$($(PY) -c 'from tests.unit.serving import environments; print(environments.python("dev", "training-tensorflow"))'); \
		PYTHONPATH=$$(printf '$(CURDIR)/%s:' $(SOURCE_ROOTS)) $$python -m pytest -q tests/tensorflow

.PHONY: bench-operator
bench-operator: venv ## 1,000 ModelDeployments on KWOK nodes; the last line is JSON
	@$(PY) bench/bench_operator.py

.PHONY: bench-serving
bench-serving: venv ## The model server beside its peers, each in its own environment; the last line is JSON
	@$(PY) -m bench.serving $(ARGUMENTS)

.PHONY: bench-rollouts
bench-rollouts: venv ## 20 rollouts, scaling, deleted and evicted pods under load; the last line is JSON
	@$(PY) -m bench.bench_rollouts

.PHONY: bench-rollback
bench-rollback: venv ## Bad versions under load: when they are caught, and what users get of them; the last line is JSON
	@$(PY) -m bench.bench_rollback $(ARGUMENTS)

.PHONY: bench-router
bench-router: venv ## What the router and the way to another revision cost a request; the last line is JSON
	@$(PY) -m bench.bench_router $(ARGUMENTS)

.PHONY: bench-decisions
bench-decisions: venv ## How often the statistics decide wrongly, and how soon rightly (simulated); the last line is JSON
	@$(PY) -m bench.bench_decisions $(ARGUMENTS)

.PHONY: bench-drift
bench-drift: venv ## How often drift and lost accuracy are called wrongly, how soon rightly, beside peers; the last line is JSON
	@$(PY) -m bench.bench_drift $(ARGUMENTS)

.PHONY: bench-overload
bench-overload: venv ## Twice as many requests as a server can answer; the last line is JSON
	@$(PY) -m bench.overload

.PHONY: campaign
campaign: venv ## Long proofs: crashes at every moment and after every write, outages, 50 rollouts of the same; the last line is JSON
	@HOLDFAST_CAMPAIGN=1 $(PY) -m pytest -q tests/e2e/test_loop.py
	@$(PY) -m bench.campaign $(ARGUMENTS)

.PHONY: fuzz
fuzz: venv ## Fuzz what reads from strangers, a minute for each, and 10,000 damaged models; the last line is JSON
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/fuzz.txt \
		|| echo "no atheris for this Python: octets are changed at random"
	@$(PY) -m tests.hostile.fuzz

.PHONY: format
format: venv ## Format the code and mend what the linter can
	@$(VENV)/bin/ruff check --fix --quiet $(CODE) || true
	@$(VENV)/bin/ruff format $(CODE)

.PHONY: crds
crds: venv ## Render crds/ from operator/holdfast/api
	@$(PY) -m holdfast.api.crd --write crds

.PHONY: protos
protos: venv ## Compile serving-image/protos into the descriptors that the server carries
	@$(PY) serving-image/protos/generate.py --write

.PHONY: dashboards
dashboards: venv ## Render the Grafana dashboards from their generator
	@$(PY) manifests/monitoring/dashboards/generate.py --write

.PHONY: lock
lock: venv ## Resolve dependency ranges into requirements/*.txt with hashes
	@PATH=$(CURDIR)/$(VENV)/bin:$$PATH requirements/lock.sh

.PHONY: images
images: venv ## Build the three images
	@$(PY) -m holdfast_devcluster build-image all

.PHONY: image-torch
image-torch: venv ## Build the image for estimators of PyTorch with Debian's package of it (large), on that of the trainer
	@$(PY) -m holdfast_devcluster build-image training-torch

.PHONY: image-tensorflow
image-tensorflow: venv ## Build the image for estimators of Keras (large), on that of the trainer
	@$(PY) -m holdfast_devcluster build-image training-tensorflow

.PHONY: venv
venv: $(VENV)/.ready

# The source roots go onto the path by a .pth file: nothing has to be installed again when code changes.
$(VENV)/.ready: requirements/dev.txt
	@echo "== virtual environment ($(VENV), from requirements/dev.txt)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "   installing python3-venv"; apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends python3-venv >/dev/null; }
	@rm -f $@; $(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	@printf '%s\n' $(SOURCE_ROOTS:%=$(CURDIR)/%) > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/holdfast.pth"
	@touch $@

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z0-9-]*:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
