# The two commands: `make demo` and `make test`. Both set everything up first, in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= etcd

.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly simulate quick lint fix localnet constraints test-etcd3 test-etcds fuzz sanitize spec spec-large trace fault soak mutants bench instructions docs audit release clean

help:  ## what there is to make
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/ready  ## the virtual environment with the compiled library and all tools

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=")'
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/packages: $(VENV)/python constraints.txt pyproject.toml
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools cython
	@touch $@

$(VENV)/ready: $(VENV)/packages setup.py $(wildcard tower/*.pyx tower/*.pxd)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[test]'
	@touch $@

demo: setup  ## the operator's guide, played on this machine; STORE=etcd (default) or STORE=file
	@$(BIN)/openos-localnet demo --store $(STORE)

test: setup  ## all tests, lint and types
	@$(BIN)/python -m pytest -q

nightly: setup  ## the property tests with 20,000 examples each, and 100,000 simulated failovers
	@TOWER_PROFILE=nightly $(BIN)/python -m pytest -q tests/oracle tests/property tests/stateful tests/spec/test_model.py \
		tests/unit/test_instructions.py tests/unit/test_vote_account.py tests/simulator

simulate: setup  ## failovers of the real code in simulated time; SEED=, RUNS=, FAILOVERS= (in each run), TRACE= (RUNS=1)
	@$(BIN)/python -m tests.simulator $(if $(SEED),--seed $(SEED)) --runs $(or $(RUNS),10) --failovers $(or $(FAILOVERS),200) \
		$(if $(TRACE),--trace $(TRACE))

quick: setup  ## the tests that need no process but this one
	@$(BIN)/python -m pytest -q tests/unit tests/property

lint: setup  ## style and types
	@$(BIN)/ruff check . && $(BIN)/mypy

fix: setup  ## let the linter repair what it can
	@$(BIN)/ruff check --fix .

localnet: setup  ## a local cluster to try things on, in ./localnet-run
	@$(BIN)/openos-localnet run --dir localnet-run

test-etcd3: setup  ## the etcd adapter on the etcd3 library itself, in a virtual environment of its own
	@$(PYTHON) -m venv $(VENV)/etcd3
	@$(VENV)/etcd3/bin/python -m pip install -q --disable-pip-version-check 'etcd3==0.12.0' 'protobuf==3.20.3' \
		aiohttp click cryptography hpack hypothesis pynacl pytest pytest-timeout rich solders
	@TOWER_ETCD3_PYTHON=$(VENV)/etcd3/bin/python $(BIN)/python -m pytest -q tests/etcd/test_etcd3_library.py

test-etcds: setup  ## the tests that need an etcd on 3.4, 3.5, 3.6 and 3.7, as far as this machine can get them
	@$(BIN)/python -m tests.etcd.versions

$(VENV)/fuzz-ready: $(VENV)/ready
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[fuzz]'
	@touch $@

SECONDS ?= 60

fuzz: $(VENV)/fuzz-ready  ## hostile bytes at every door, SECONDS=60 each; TARGET=one of them (docs/fuzzing.md)
	@$(BIN)/python -m fuzz.run --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET))

sanitize: setup  ## the compiled module under AddressSanitizer and UBSan, where gcc has them
	@$(BIN)/python -m fuzz.sanitize

spec: setup  ## the specification: every small TLA+ model in TLC (needs Java), and the SMT argument without bounds
	@$(BIN)/python -m spec.check

spec-large: setup  ## the same with the large models, about a quarter of an hour
	@$(BIN)/python -m spec.check --large

TRACES := demo-run/primary/trace.ndjson demo-run/secondary/trace.ndjson

trace: setup  ## the demo and a simulated run with traces, held against the specification (needs Java); STORE= as for demo, SEED=
	@$(BIN)/openos-localnet demo --store $(STORE) --trace
	@$(BIN)/python -m tests.simulator --seed $(or $(SEED),1) --runs 1 --failovers 150 --trace demo-run/simulator.ndjson
	@$(BIN)/python -m spec.replay --store $(STORE) $(TRACES)
	@$(BIN)/python -m spec.replay demo-run/simulator.ndjson
	@$(BIN)/python -m spec.replay --store $(STORE) --alter $(or $(SEED),1) $(TRACES)

fault: setup  ## real faults on real processes, judged by evidence; SEED=, CI=1 for a third of them
	@$(BIN)/python -m tests.fault.run $(if $(SEED),--seed $(SEED)) $(if $(CI),--ci)

soak: setup  ## random faults and failovers, MINUTES=60; goes on where fault-soak/ was left
	@$(BIN)/python -m tests.fault.soak --minutes $(or $(MINUTES),60)

mutants: setup  ## every guard of the code taken out once; the tests must notice (docs/mutants.md), some minutes
	@$(BIN)/python -m mutants.run

$(VENV)/bench-ready: $(VENV)/ready
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[bench,peers]'
	@$(PYTHON) -m venv $(VENV)/etcd3-peer
	@$(VENV)/etcd3-peer/bin/python -m pip install -q --disable-pip-version-check 'etcd3==0.12.0' 'protobuf==3.20.3'
	@touch $@

bench: $(VENV)/bench-ready  ## every benchmark at full length, then docs/benchmarks.md; TOPIC=codec for one of them
	@$(BIN)/python -m benchmarks.run $(TOPIC)

instructions: setup  ## instructions of the hot functions against those written down (needs valgrind)
	@$(BIN)/python -m benchmarks.instructions --check

docs: setup  ## the documentation as a site, in build/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

$(VENV)/release-ready: $(VENV)/ready
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[release]'
	@touch $@

audit: $(VENV)/release-ready  ## ask whether a known vulnerability is in what is pinned (needs the network)
	@$(BIN)/python -m release.audit

release: $(VENV)/release-ready  ## source archive, wheel, bill of materials and checksums in dist/
	@$(BIN)/python -m release.build

constraints: setup  ## write constraints.txt anew from what is installed
	@$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' > constraints.new
	@(echo '# What CI and the make targets install, exactly. Refresh: make constraints'; cat constraints.new) > constraints.txt; rm constraints.new

clean:  ## remove everything that the targets made
	@rm -rf $(VENV) build dist *.egg-info demo-run localnet-run fault-soak tower/_*.c tower/_*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
