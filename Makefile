# The commands to learn. Every target does its own set-up in $(VENV), again only when what it depends on has changed.
#   make chat [MODEL=…]   talk to a model              make check      style, types, layers, generated docs
#   make serve [MODEL=…]  Mistral's API on port 8000   make bench      measure this machine
#   make test             all tests                    make gpu-check  test and measure a CUDA GPU, 8 minutes
#   make quick            those that take a minute     make docs       regenerate docs/cli.md and docs/api.md
#   make clients          other people's clients       make install    set-up alone
#   make sanitize         kernels under sanitizers     make fuzz       every parser, FUZZ_SECONDS=… of each
#   make simulate         worlds drawn from seeds
#   make audit ADVISORIES=… what is installed and locked against known flaws       make lock  what is locked, anew
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?= python3
MODEL ?= default
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := CMakeLists.txt $(wildcard csrc/*)

.PHONY: help install chat serve test clients sanitize fuzz simulate audit lock quick missing check bench gpu-check docs clean
help:
	@sed -n '2,9s/^#   //p' Makefile

# What chat and bench need. torch comes first and alone, so that no other package pulls another build of it.
RUN := $(VENV)/.installed
$(RUN): pyproject.toml constraints.txt $(NATIVE)
	@lacking=$$(.ci/missing build | xargs); test -z "$$lacking" || { echo "needed first: sudo apt-get install --no-install-recommends $$lacking"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) uninstall -qq -y tramontane  # the distribution's name until 0.1.0: two of them would each bring kernels
	@echo "== 1 of 3: PyTorch, the largest download: some 200 MB for CPUs, gigabytes where it brings CUDA along"
	$(PIP) install -c constraints.txt torch
	@echo "== 2 of 3: what builds the native part"
	$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja
	@echo "== 3 of 3: Tramontane, its native part compiled (a minute or two on two cores), and what it needs to run and serve"
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[documents,serve]'
	@touch $@

# What check and quick need besides.
DEV := $(VENV)/.installed-dev
$(DEV): $(RUN)
	@echo "== what checks and tests need: some 500 MB"
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	$(PIP) install --no-warn-conflicts --target build/clients/mistralai-2.5.1 --upgrade mistralai==2.5.1
	@touch $@

# What test needs besides. llama-cpp-python, the independent judge of our GGUF files, is compiled from source on most
# machines. GGML_NATIVE makes it as fast as this processor allows; but its kernels for AMX, which nothing enters without
# that macro, end in a segmentation fault (llama-cpp-python 0.3.36). Without pip's cache: what lies there may have been
# compiled with other settings, or for another processor.
JUDGE := $(VENV)/.installed-judge
$(JUDGE): $(DEV)
	@echo "== llama.cpp, compiled once: about ten minutes on two cores"
	CMAKE_ARGS="-DGGML_NATIVE=ON -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__" $(PIP) install --no-cache-dir -c constraints.txt llama-cpp-python
	@touch $@

install: $(RUN)

chat: $(RUN)
	@$(BIN)/tramontane chat --model "$(MODEL)"

serve: $(RUN)
	@$(BIN)/tramontane serve "$(MODEL)"

# Before anything takes minutes: what tests need and only root can install. Without it they are skipped, or, where CI is
# set, fail.
missing:
	@lacking=$$(.ci/missing test | xargs); test -z "$$lacking" || { echo "tests will be skipped, unless you: sudo apt-get install --no-install-recommends $$lacking"; test -z "$${CI-}"; }

# One thread per worker: two workers share the cores without fighting over them. A file goes to one of them whole, so that
# what its tests share is made once. A worker that dies ends the run: a crash in native code is no test to go on after.
test: missing $(JUDGE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0

# Neither server, browser, emulator nor llama.cpp, no parity with other libraries, and nothing that takes long: a minute on
# two quiet cores.
QUICK := $(addprefix tests/,test_layering.py test_source.py test_project.py test_extras.py config formats hub model documents \
	tokenizer/test_messages.py tokenizer/test_parse.py tokenizer/test_detokenizer.py tokenizer/test_recognise.py)
quick: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 --ignore tests/formats/test_optimised_python.py --ignore tests/hub/test_power_cut.py $(QUICK)

# Clients from npm and PyPI, each in an environment of its own, against a live server. npm runs nothing that they bring.
CLIENTS := build/clients/.installed
$(CLIENTS): tests/clients/node/package.json tests/clients/python/requirements.txt
	@lacking=$$(.ci/missing clients | xargs); test -z "$$lacking" || { echo "needed first: sudo apt-get install --no-install-recommends $$lacking"; exit 1; }
	@echo "== other people's clients: some 600 MB"
	mkdir -p build/clients/node
	cp tests/clients/node/package.json build/clients/node
	cd build/clients/node && npm install --ignore-scripts --no-package-lock --no-audit --no-fund
	test -x build/clients/python/bin/python || $(PYTHON) -m venv build/clients/python
	build/clients/python/bin/python -m pip --disable-pip-version-check install -r tests/clients/python/requirements.txt
	@touch $@

clients: $(DEV) $(CLIENTS)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m clients tests/clients

# ASan and UBSan with tests/ops and hostile weights, TSan with the thread pool: minutes, most of them the compiler's.
sanitize: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m sanitize tests/native

# FUZZ_SECONDS for each of some twenty targets, FUZZ_JOBS of them at a time; what is found is kept in build/fuzz/found.
FUZZ := $(VENV)/.installed-fuzz
$(FUZZ): $(DEV)
	$(PIP) install -c constraints.txt 'atheris>=3.0'
	@touch $@

export FUZZ_SECONDS ?= 20
export FUZZ_JOBS ?= 2
export FUZZ_SEED ?= 1
fuzz: $(FUZZ)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

# ADVISORIES: OSV records, as files, folders or zip archives, beside those that our lowest versions were chosen by. Without,
# pip-audit asks a service for them.
audit: $(DEV)
	$(if $(ADVISORIES),,$(PIP) install pip-audit)
	$(BIN)/python requirements/audit.py requirements/known_flaws.json $(ADVISORIES)
	$(if $(ADVISORIES),,$(BIN)/pip-audit --local --skip-editable)

lock: $(RUN)
	$(PIP) install uv
	$(BIN)/python requirements/lock.py

# The scheduler, batches of several servers, downloads: thousands of worlds each, with whatever may befall them.
simulate: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulations

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_source.py tests/test_project.py
	$(BIN)/python docs/generate.py --check

docs: $(DEV)
	$(BIN)/python docs/generate.py

gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu_check

bench: $(RUN)
	@for name in $$(basename -s .py benchmarks/[a-z]*.py | grep -v gpu_check); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
