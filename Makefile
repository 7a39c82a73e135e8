# Everything runs in .venv beside this file, from whatever folder make is called in.
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -c $(ROOT)/requirements/constraints.txt
READY := $(VENV)/ready
# What is asked while code is being edited; not the names of other projects, and not the two models that build slowest.
QUICK := tests/test_base.py tests/test_factory.py tests/weights --ignore tests/weights/projects -k "not crossvit and not nest"

# Threads that wait without spinning: on few cores, any other process makes spinning ones ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo seg-demo bench bench-extract coverage learning docs test test-quick lint format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(abspath $(lastword $(MAKEFILE_LIST))) | column -t -s '|'

setup: $(READY)  ## make .venv and install everything, mmcv compiled (minutes, once)

# In stages: mmcv's build imports torch, so torch comes before it, and without build isolation. Debug information, which
# Python's own flags ask for, would more than double the time that compiling it takes.
$(READY): $(ROOT)/requirements/constraints.txt $(ROOT)/setup.py $(ROOT)/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=80,<81" wheel packaging ninja
	$(PIP) torch torchvision timm
	@echo "Installing OpenMMLab; compiling mmcv takes about 10 minutes on 2 cores the first time, pip keeps the wheel."
	CFLAGS=-g0 $(PIP) --no-build-isolation onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation
	# opencv-python needs libGL, which a bare machine lacks; the headless build of the same version does not.
	$(BIN)/pip uninstall --yes opencv-python opencv-python-headless
	$(PIP) --no-deps opencv-python-headless
	$(PIP) --no-build-isolation -e "$(ROOT)[test]"
	touch $(READY)

demo: setup  ## train a detector from pretrained and from random weights (6 minutes), pictures in work_dirs/demo
	cd $(ROOT) && $(BIN)/python tools/demo.py

seg-demo: setup  ## the same for a segmentor, pictures in work_dirs/seg-demo
	cd $(ROOT) && $(BIN)/python tools/demo.py --task segmentation

bench: setup  ## time and memory beside timm and mmseg (an hour on 2 cores), table in work_dirs/benchmark
	cd $(ROOT) && $(BIN)/python tools/benchmark.py

bench-extract: setup  ## feature extraction beside the bare forward pass
	cd $(ROOT) && $(BIN)/python tools/benchmark_extraction.py

coverage: setup  ## every family of timm's, at five sizes, table in docs/coverage.md (an hour on 2 cores)
	cd $(ROOT) && $(BIN)/python tools/measure_coverage.py

learning: setup  ## train each family beside mmseg's and mmdet's native classes, table in work_dirs/learning_check
	cd $(ROOT) && $(BIN)/python tools/learning_check.py

docs: setup  ## build the site, strict, into work_dirs/site
	cd $(ROOT) && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: setup  ## all tests, two at a time
	cd $(ROOT) && $(BIN)/python -m pytest -n 2

test-quick: setup  ## the contract over the zoo, errors and weights (a minute)
	cd $(ROOT) && $(BIN)/python -m pytest -n 2 -q -m "not slow" $(QUICK)

lint: setup  ## ruff, mypy and the layers of the package (import-linter)
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup  ## let ruff format the code
	cd $(ROOT) && $(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:  ## remove what runs have written, but not .venv
	rm -rf $(ROOT)/work_dirs $(ROOT)/data $(ROOT)/build
