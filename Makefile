# The commands to learn. Every target does its own set-up in $(VENV), again only when what it depends on has changed.
#   make chat [MODEL=…]   talk to a model              make check   style, types, layers, generated docs
#   make serve [MODEL=…]  Mistral's API on port 8000
#   make test             all tests                    make bench   measure this machine
#   make install          set-up alone                 make docs    regenerate docs/cli.md and docs/api.md
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?= python3
MODEL ?= default
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := CMakeLists.txt $(wildcard csrc/*)

.PHONY: help install chat serve test check bench docs clean
help:
	@sed -n '2,5s/^#   //p' Makefile

# What chat and bench need. torch comes first and alone, so that no other package pulls another build of it.
RUN := $(VENV)/.installed
$(RUN): pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) uninstall -qq -y tramontane  # the distribution's name until 0.1.0: two of them would each bring kernels
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt scikit-build-core nanobind cmake ninja
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[documents,serve]'
	touch $@

# What test and check need besides. llama-cpp-python, the independent judge of our GGUF files, is compiled from source
# on most machines: about ten minutes on two cores, once. GGML_NATIVE makes it as fast as this processor allows; but its
# kernels for AMX, which nothing enters without that macro, end in a segmentation fault (llama-cpp-python 0.3.36). Without
# pip's cache: what lies there may have been compiled with other settings, or for another processor.
DEV := $(VENV)/.installed-dev
$(DEV): $(RUN)
	CMAKE_ARGS="-DGGML_NATIVE=ON -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__" $(PIP) install -q --no-cache-dir -c constraints.txt llama-cpp-python
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(PIP) install -q --no-warn-conflicts --target build/clients/mistralai-2.5.1 mistralai==2.5.1
	touch $@

install: $(RUN)

chat: $(RUN)
	@$(BIN)/tramontane chat --model "$(MODEL)"

serve: $(RUN)
	@$(BIN)/tramontane serve "$(MODEL)"

# One thread per worker: two workers share the cores without fighting over them. A file goes to one of them whole, so that
# what its tests share is made once. A worker that dies ends the run: a crash in native code is no test to go on after.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_source.py tests/test_project.py
	$(BIN)/python docs/generate.py --check

docs: $(DEV)
	$(BIN)/python docs/generate.py

bench: $(RUN)
	@for name in $$(basename -s .py benchmarks/[a-z]*.py); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
