# make demo    set up, run the main job on bundled images, offline: the result is in i2i-demo/
# make test    set up for development, run all tests
# make lint    ruff, mypy, import levels, the documents as a site (build/site)
# make bench   the measured claims: benchmarks/*.py, each prints a table
# make clean   remove what these made

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: demo test lint bench clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	@echo "setting up $(VENV): about 6 GB, mostly PyTorch; a few minutes the first time"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/i2i demo i2i-demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/site.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/help_time.py
	$(BIN)/python benchmarks/segmentation_models.py
	$(BIN)/python benchmarks/tiling_exact.py
	$(BIN)/python benchmarks/tiling.py --quick
	$(BIN)/python benchmarks/memory.py --quick
	$(BIN)/python benchmarks/resume.py --quick

clean:
	rm -rf $(VENV) i2i-demo build dist
