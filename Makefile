# Two commands on a fresh machine:  `make demo`  and  `make test`  (Python >= 3.11 with venv, git, make).
SHELL := /usr/bin/env bash
VENV ?= .venv
PY ?= python3
# cpu (default) or cuda: which build of torch to install; `make clean setup TORCH=cuda` switches.
# Without TORCH the installed build is kept.
TORCH ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu)
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
STAMP := $(VENV)/.installed-$(TORCH)
TORCH_VERSION = $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: setup demo test lint docs docs-check lock clean
setup: $(STAMP)

# The CPU build comes from the configured index where it has one, else from PyTorch's own index.
$(STAMP): pyproject.toml constraints.txt
	$(PY) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(BIN)/pip install -q -c constraints.txt 'torch==$(TORCH_VERSION)+cpu' uv 2>/dev/null \
	  || $(BIN)/pip install -q --index-url https://download.pytorch.org/whl/cpu 'torch==$(TORCH_VERSION)'
else
	$(BIN)/pip install -q -c constraints.txt 'torch==$(TORCH_VERSION)'
endif
	$(BIN)/pip install -q uv || true
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install -q --compile-bytecode -c constraints.txt -e '.[pipeline,dev]' \
	  || $(BIN)/pip install -q -c constraints.txt -e '.[pipeline,dev]'
	rm -f $(VENV)/.installed-*
	touch $@

demo: $(STAMP)  ## train, evaluate, report: tables, figures and the page, at demo scale
	snakemake all

test: $(STAMP)  ## a worker more than cores; a file's tests stay together, the longest files start first
	python -m pytest -n logical --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	ruff check . && ruff format --check . && snakefmt --check workflow && snakemake --lint && lint-imports && mypy

docs: $(STAMP)  ## rebuild the generated parts: rule graph, settings schema
	python scripts/make_docs.py

docs-check: $(STAMP)
	python scripts/make_docs.py --check && python -m pytest -q tests/test_documentation.py

lock: $(STAMP)  ## renew constraints.txt (keeps the pinned torch unless TORCH_VERSION=... is given)
	echo 'torch==$(TORCH_VERSION)' > .torch-pin
	uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate \
	  --extra pipeline --extra dev -c .torch-pin -o constraints.txt pyproject.toml
	rm .torch-pin

clean:
	rm -rf $(VENV)
