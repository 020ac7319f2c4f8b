# Two commands do everything on a machine with Python 3.11 or newer: make demo, make test.
# Variables: PYTHON (interpreter that makes .venv), INPUT and RECIPE (what make demo reads).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUT ?= samples/*.warc.gz
RECIPE ?= recipes/sample.toml

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

PEER := .venv-datatrove
BENCH_INPUT ?= ../shared/crawl/REALWEB-public-*.warc.gz

.PHONY: help demo demo-chat test test-jobs test-rest check soak docs reference bench bench-datatrove bench-dedup bench-tokens \
  bench-loader bench-trainer clean

help:
	@echo "make demo    sample crawl -> corpus -> small model that writes (INPUT='...' for your WARCs)"
	@echo "make demo-chat  the same sample crawl -> base model -> an assistant that answers"
	@echo "make test    the tests, on the embedded engine and on Apache Spark"
	@echo "make check   lint, format, types"
	@echo "make soak    the longer proofs (kills, many orders, the real crawl)"
	@echo "make docs    the documentation as a site in .site/ (make reference: its generated pages)"
	@echo "make bench   extraction against human gold, and what the look saves (needs ../shared)"
	@echo "make bench-datatrove  FineWeb's recipe by both systems (BENCH_INPUT='...' for your WARCs)"
	@echo "make bench-dedup  dedup: cost, scale, growth, skew and recall, beside datatrove's (an hour)"
	@echo "make bench-tokens, make bench-loader  tokenizing beside tiktoken; the loader beside pyarrow"
	@echo "make bench-trainer  training beside plain PyTorch, learning beside references, generation"
	@echo "make clean   remove .venv, demo/ and demo-chat/"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gristmill: error: PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1); needs Python 3.11 or newer" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once; about two minutes)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.installed-check: $(VENV)/.installed-test
	$(PIP) --editable '.[test,check]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python samples/demo.py --recipe '$(RECIPE)' --input '$(INPUT)'

demo-chat: $(VENV)/.installed
	@$(BIN)/python samples/demo_chat.py

# Two halves side by side, since most of a test runs on one core.
HALVES := --jobs 2 --keep-going --output-sync=line --no-print-directory
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider

test: $(VENV)/.installed-test
	@$(MAKE) $(HALVES) test-jobs test-rest

test-jobs:
	$(PYTEST) tests/jobs $(FLAGS)

test-rest:
	$(PYTEST) tests --ignore tests/jobs $(FLAGS)

soak: $(VENV)/.installed-test
	@$(MAKE) $(HALVES) test-jobs test-rest FLAGS='--soak --durations 25'

check: $(VENV)/.installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reference: $(VENV)/.installed
	$(BIN)/python docs/generate.py

docs: $(VENV)/.installed reference
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/extraction_quality.py
	$(BIN)/python benchmarks/cascade.py

# datatrove in an environment of its own: its dependencies are not ours.
$(PEER)/.installed: benchmarks/peers/datatrove-requirements.txt
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-datatrove: $(VENV)/.installed $(PEER)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/versus_datatrove.py \
	  --peer-python $(PEER)/bin/python --input '$(BENCH_INPUT)' --work .bench
	$(BIN)/python benchmarks/filters.py --peer-python $(PEER)/bin/python \
	  --documents .bench/fineweb.toml/corpus/documents

bench-dedup: $(VENV)/.installed $(PEER)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/dedup.py all \
	  --peer-python $(PEER)/bin/python --master 'local[2]'

bench-tokens: $(VENV)/.installed
	$(BIN)/python benchmarks/tokens.py all

bench-loader: $(VENV)/.installed
	$(BIN)/python benchmarks/loader.py all

bench-trainer: $(VENV)/.installed-test
	$(BIN)/python benchmarks/training.py all
	$(BIN)/python benchmarks/generation.py

clean:
	rm -rf $(VENV) $(PEER) .bench demo demo-chat
