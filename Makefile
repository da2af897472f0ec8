# lungtl: `make help` lists the targets. Each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# passed on to the command: make train ARGS="aggregator=max seed=1"
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-picture train sweep report crossval leak results ui lidc prepare test exhaustive fuzz doctor lint bench bench-gpu clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/installed  ## create .venv and install lungtl with its development tools

# pip, not uv: it honours the machine's own torch builds
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "lungtl needs Python 3.11 to 3.13, this is %d.%d; make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup  ## train on built-in synthetic CTs and print the test metrics
	$(BIN)/python -m lungtl.train $(ARGS)

demo-picture: demo  ## run the demo and draw docs/demo.png
	$(BIN)/python docs/demo_picture.py

train: setup  ## lungtl train, with ARGS="key=value ..."
	$(BIN)/python -m lungtl.train $(ARGS)

sweep: setup  ## compare aggregators on the phantom, or sweep ARGS="key=a,b ..."
	$(BIN)/python -m lungtl.train -m $(if $(ARGS),$(ARGS),aggregator=mean,max,attention,gated_attention)

report: setup  ## compare the runs of the latest sweep on one page, or ARGS="sweep=FOLDER"
	$(BIN)/python -m lungtl.report $(ARGS)

crossval: setup  ## train and test every fold, or ARGS="aggregator=mean,max seed=0,1,2 ..."
	$(BIN)/python -m lungtl.crossval $(ARGS)

leak: setup  ## show how a split by slice instead of by patient inflates the results
	$(BIN)/python -m lungtl.leak_demo $(ARGS)

results: setup  ## the studies of experiments/, hours: DATA=folder with LIDC-IDRI-slices and lidc_maxslice, STUDIES="scale ..."
	$(BIN)/python -m pip install --quiet --editable '.[wheels]'
	$(BIN)/python experiments/make_results.py --data $(DATA) $(STUDIES)

ui: setup  ## open MLflow on http://127.0.0.1:5000
	$(BIN)/python -m lungtl.ui $(ARGS)

lidc: setup  ## download 20 LIDC-IDRI scans to data/LIDC-IDRI, or ARGS="scans=all root=..."
	$(BIN)/python -m pip install --quiet --editable '.[download]'
	$(BIN)/python -m lungtl.download $(if $(ARGS),$(ARGS),scans=20 root=data/LIDC-IDRI)

prepare: setup  ## lungtl prepare, with ARGS="dataset=lidc dataset.root=..."
	$(BIN)/python -m lungtl.prepare $(ARGS)

# tests write 2 GB of small files: faster in memory, where there is room
TEST_TMP := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 6000000 {print "TMPDIR=/dev/shm"}')

test: setup  ## all tests; those on real data if it is found
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(TEST_TMP) $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

exhaustive: setup  ## the tests that `make test` leaves out; ten kills of a sweep of 12 runs
	LUNGTL_TEST_KILLS=10 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m exhaustive $(ARGS)

fuzz: setup  ## 10,000 odd or damaged DICOM series through the reader, or ARGS="COUNT FIRST_SEED"
	$(BIN)/python -W ignore -m tests.fuzz $(ARGS)

doctor: setup  ## check packages, weights, device, stores
	$(BIN)/python -m lungtl.doctor $(ARGS)

lint: setup  ## ruff, mypy --strict, direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## measure speed, compared with other packages
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-gpu: setup  ## measure speed on a CUDA GPU, compared with timm
	$(BIN)/python -m benchmarks.gpu

clean:  ## remove .venv and caches; data/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
