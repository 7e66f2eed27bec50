# A fresh clone needs Python 3.10 or newer and make. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

# Compiles what commands and tests import; pip would take a minute and a half more, for 18,000 files.
COMPILE := env -u PYTHONDONTWRITEBYTECODE DS_ACCELERATOR=cpu $(BIN)/python -W ignore -c

.PHONY: install gpu demo test test-fast test-gpu check docs clean

install: .venv/installed

# torch first and alone: a machine may have its own build of exactly this version.
.venv/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable .
	$(COMPILE) 'from tiebreak.pipeline.warm import warm_up; warm_up(); import bitsandbytes, datasets'
	touch $@

# What tests and checks need besides.
.venv/dev: .venv/installed
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(COMPILE) 'from tiebreak.process import prepare_process; prepare_process(); import sys; sys.path.insert(0, "tests"); import warm; warm.import_all(); import hypothesis, pytest, onnx, wandb'
	touch $@

# flash-attn asks for torch while it is built, so it is built against the one that is there; needs nvcc, and minutes.
gpu: install
	$(BIN)/pip install --quiet ninja packaging psutil setuptools wheel
	$(BIN)/pip install --no-build-isolation --constraint constraints.txt --editable '.[gpu]'

# One that was stopped goes on; one that is done starts anew.
demo: install
	[ ! -e $(DEMO)/metrics.json ] || rm -rf $(DEMO)
	$(BIN)/tiebreak pipeline --recipe demo --out $(DEMO)

# Each file on one worker, the longest first (tests/conftest.py); one worker more than cores, as some mostly wait.
PYTEST := $(BIN)/python -m pytest --numprocesses $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: .venv/dev
	$(PYTEST)

test-fast: .venv/dev
	$(PYTEST) -m "not processes and not slow"

# On a machine with a GPU: what only a GPU can show, and a table to paste; a quarter of an hour.
test-gpu: .venv/dev
	$(BIN)/python -m pytest tests/gpu
	$(BIN)/python benchmarks/gpu.py

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/shellcheck -x launch/minislurm launch/*.sh slurm/*.sh slurm/*.sbatch slurm/site.sh.example

# The site, in runs/site; a warning is an error.
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs
