# A fresh clone needs Python 3.10 or newer and make. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: install demo test check clean

install: .venv/installed

# torch first and alone: a machine may have its own build of exactly this version.
.venv/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/python src/train.py --recipe demo-gemma2 --set train.epochs=3 --out $(DEMO)
	$(BIN)/tiebreak sample --rows 2000 --seed 1 --profile short --out $(DEMO)/test.csv
	$(BIN)/python src/predict.py --model $(DEMO) --data $(DEMO)/test.csv --labels auto --swap --out $(DEMO)/prediction
	$(BIN)/tiebreak report $(DEMO)/prediction --labels $(DEMO)/test.csv --runs $(DEMO) --model $(DEMO) --out $(DEMO)/report

test: install
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs
