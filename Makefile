# `make up` and `make test` need Python 3.11 to 3.13 with venv, a C compiler, make; each makes what it lacks.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-$(shell cat locks/platform.lock pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)
ENGINE_TESTS := tests/serving tests/e2e
# The cluster itself, scenarios, the suite of one machine through its Gateway; at last the platform is taken away.
CLUSTER_TESTS ?= tests/cluster/test_lab.py tests/cluster/scenarios tests/e2e/platform/test_answers.py tests/e2e/clients tests/cluster/removal
# Made when all tests on the cluster have run: the failed ones alone say nothing about any that were not.
CLUSTER_TESTS_RAN := .pytest_cache/cluster-tests-ran
# What needs an API server and nothing behind it.
API_SERVER_TESTS := tests/kubernetes_api tests/manifests/test_admission.py
ON_API_SERVER = LLMARINER_TEST_KUBECONFIG=$$($(BIN)/python -c "from tests.cluster.lab.places import Lab; print(Lab().kubeconfig)") \
  $(BIN)/python

# What MLflow installs and its server, as the tests start it, does not import: more than half of it.
NOT_SERVED := aiohttp aiohappyeyeballs aiosignal contourpy cycler docker fonttools frozenlist google-auth gunicorn huey joblib \
  kiwisolver matplotlib multidict narwhals numpy pandas pillow prettytable propcache pyarrow pyasn1 pyasn1-modules pyparsing \
  python-dateutil pywin32 scikit-learn scipy six skops threadpoolctl tzdata waitress wcwidth yarl

.PHONY: help up down test test-fast test-dates check lock manifests images cluster cluster-down e2e-api-server e2e-cluster e2e-cluster-again bench e2e clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F: '{printf "  make %-12s %s\n", $$1, $$2}'

up: $(STAMP)  ## set up what is missing and start the platform, with a real model answering
	@$(BIN)/llma up

down: $(STAMP)  ## stop the platform and its engines
	@$(BIN)/llma down

test: $(STAMP)  ## set up what is missing and run every test on one machine, real engine included
	@$(BIN)/python -m tests.suite setup spread+check,waiting,compiled+engine quiet+compiled-quiet

test-fast: $(STAMP)  ## the tests that need no engine
	@$(BIN)/python -m tests.suite --fast spread+waiting,engine quiet

test-dates: $(STAMP)  ## the fast tests on another day or in another time zone (DATE=...; else one of them, by turns)
	@$(BIN)/python -m tests.suite.dates $(DATE)

check: $(STAMP)  ## format, lint, types, architecture, generated files, words
	@$(BIN)/ruff format --quiet --check shared functions eventing images tests
	@$(BIN)/ruff check --quiet shared functions eventing images tests
	@$(BIN)/mypy shared functions eventing images tests
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m llmariner.manifests --check
	@$(BIN)/python -m llmariner.authorization --check
	@$(BIN)/python -m tests.style

manifests: $(STAMP)  ## write manifests/ from functions/ and eventing/
	@$(BIN)/python -m llmariner.manifests

images: $(STAMP)  ## build every image with buildah and print what each weighs (ARCHIVES=DIR: write them there)
	@$(BIN)/python -m images.build $(if $(ARCHIVES),--archives $(ARCHIVES))

e2e: $(STAMP)  ## the tests against a running platform and real clients
	@$(BIN)/python -m llmariner.standalone.setup
	@$(BIN)/python -m pytest -q $(ENGINE_TESTS)

cluster: $(STAMP)  ## start a Kubernetes of the tests' own on this machine (as root; the first time it is built: half an hour)
	@$(BIN)/python -m tests.cluster.lab up

cluster-down: $(STAMP)  ## end it; nothing is left behind but caches
	@$(BIN)/python -m tests.cluster.lab down

e2e-api-server: $(STAMP)  ## start the test cluster's API server alone and run what needs no pods: admission, contract (as root; minutes)
	@$(BIN)/python -m tests.cluster.lab up --rung 1
	@$(ON_API_SERVER) -m pytest -q $(API_SERVER_TESTS)

e2e-cluster: $(STAMP)  ## start the test cluster, install the platform on it, run every scenario and the suite of one machine there
	@rm -f $(CLUSTER_TESTS_RAN)
	@$(BIN)/python -m llmariner.standalone.setup
	@$(BIN)/python -m tests.cluster.lab up
	@api=0; cluster=0; $(ON_API_SERVER) -m pytest -q $(API_SERVER_TESTS) || api=$$?; \
	  { $(BIN)/python -m tests.cluster.platform up || exit 2; \
	    LLMARINER_E2E_CLUSTER=1 $(BIN)/python -m pytest -q $(CLUSTER_TESTS) || cluster=$$?; }; \
	  if ((api <= 1 && cluster <= 1)); then mkdir -p .pytest_cache && touch $(CLUSTER_TESTS_RAN); fi; \
	  exit $$((api + cluster))

e2e-cluster-again: $(STAMP)  ## on the test cluster as it stands, the tests that failed last, if all of them were run
	@test -e $(CLUSTER_TESTS_RAN) || { echo "The tests of the cluster did not run to their end: make e2e-cluster"; exit 1; }
	@LLMARINER_E2E_CLUSTER=1 $(ON_API_SERVER) -m pytest -q --last-failed --last-failed-no-failures none \
	  $(API_SERVER_TESTS) $(CLUSTER_TESTS)

bench: $(STAMP)  ## measure against nginx, Envoy, LiteLLM and a bare server; prints RATIO lines
	@$(BIN)/python -m tests.bench

lock: $(STAMP)  ## remake the locks from their inputs
	@rm -f locks/platform.lock locks/engine.lock locks/mlflow.lock locks/notebook.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	  --extra dev -o locks/platform.lock pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	  --override locks/engine-overrides.txt -o locks/engine.lock locks/engine.in
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	  $(patsubst %,--no-emit-package %,$(NOT_SERVED)) -o locks/mlflow.lock locks/mlflow.in
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	  -o locks/notebook.lock locks/notebook.in

clean:  ## remove what was made in this folder (not the caches, not the platform's data)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamp is written last. An interruption may leave half a package that looks complete, so an unfinished environment is made from scratch.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 up"; exit 1; }
	@echo "  platform environment ($(VENV)): making it, about half a minute"
	@if test -e $(VENV)/.being-made; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/.being-made
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r locks/platform.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@rm -f $(VENV)/.made-from-*
	@touch $@
	@rm $(VENV)/.being-made
