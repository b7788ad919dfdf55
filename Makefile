# make demo   scores the bundled photographs
# make test   all that can be tested without PyTorch, JAX, ONNX, CuPy, MPI and Dask, in minutes
# make test-all   also what needs those, and what takes long
# make lint   style and types
# make train-demo  trains a model to bundle, from nothing
# make tutorials      executes all chapters of the course and writes their notebooks
# make tutorials-lab  opens the course in Jupyter
# make grade FOLDER=…  grades students' notebooks with the chapters' own checks; writes FOLDER/grades.csv
# make docs   the documentation site, in docs/_build/html
# make slides  the course's slides, a file a week, in docs/_build/slides
# make gpu    the tests of the array code on a GPU (CUDA=12 or 13), and its times beside PyTorch's; with
#             PYTHON=python3 INSTALL=no on what is installed there, without network: CuPy, PyTorch, pytest, Hypothesis
# make torture  damaged inputs, killed commands, full disks: COUNT=30000 of them, in about ten minutes (Linux)
# make bench  how fast this machine is, beside PyTorch; writes the documentation's tables (BENCH=--quick: in minutes)
#
# Each sets up what it needs in .venv, and nothing else.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
CUDA ?= 12
COUNT ?= 30000
SEED ?= 0
BIN = $(VENV)/bin
PHOTOGRAPHS = musiq_ref/data/photographs
PYTEST = $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all test-rest lint train-demo tutorials tutorials-lab grade docs slides gpu torture bench clean

demo: $(VENV)/pictures
	$(BIN)/musiq-ref distort $(PHOTOGRAPHS)/cat.png $(PHOTOGRAPHS)/coffee.png -o distorted
	$(BIN)/musiq-ref score $(PHOTOGRAPHS) distorted
	$(BIN)/musiq-ref follow $(PHOTOGRAPHS)/coffee.png -o follow.html
	$(BIN)/musiq-ref explain $(PHOTOGRAPHS)/coffee.png --follow follow.html -o demo.html
	@echo "demo.html shows what the model looked at; follow.html, in a browser, how it computes. Next, with photographs of your own:"
	@echo "  $(BIN)/musiq-ref score PHOTOGRAPH_OR_FOLDER"
	@echo "  $(BIN)/musiq-ref explain PHOTOGRAPH -o page.html"
	@echo "or, after '. $(BIN)/activate', without the $(BIN)/."

test: $(VENV)/test
	$(PYTEST) -m "not frameworks and not long"

test-all: test test-rest

test-rest: $(VENV)/test-all
	$(PYTEST) -m "frameworks or long"
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --level error --pythonpath $(BIN)/python

# Hours on 2 cores; if it is stopped, the same command goes on. Two processes of one thread do more than one of two.
# PICTURES=FOLDER: photographs of your own instead. The variables keep freed memory, which saves a tenth of the time (glibc).
PICTURES ?= demo-run/photographs
KEEP = MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TOP_PAD_=100000000

train-demo: $(VENV)/mpi
	test $(PICTURES) != demo-run/photographs || $(BIN)/python benchmarks/fetch_photographs.py demo-run/photographs
	$(KEEP) $(BIN)/mpiexec -n 2 $(BIN)/musiq-ref train --recipe demo --data $(PICTURES) --set threads=1 -o demo-run/training
	$(BIN)/musiq-ref evaluate --dataset synthetic --checkpoint demo-run/training/best.safetensors -o demo-run/evaluation
	test ! -d $(PICTURES)/blind || $(BIN)/python benchmarks/evaluate_photographs.py $(PICTURES)/blind \
		--checkpoint demo-run/training/best.safetensors -o demo-run/blind
	@echo "To bundle it: cp demo-run/training/best.safetensors musiq_ref/data/demo.safetensors"

tutorials: $(VENV)/tutorials
	$(BIN)/python tutorials/notebooks.py

tutorials-lab: $(VENV)/tutorials
	$(BIN)/python -m pip install --quiet jupyterlab -c $(CONSTRAINTS)
	cd tutorials && PYTHONPATH="$(CURDIR)/tutorials:$$PYTHONPATH" ../$(BIN)/jupyter lab --config=jupyter_config.py start.ipynb

grade: $(if $(FOLDER),$(VENV)/tutorials)
	@test -n "$(FOLDER)" || { echo "say where the notebooks are: make grade FOLDER=handed-in"; exit 2; }
	$(BIN)/python tutorials/grade.py "$(FOLDER)"

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html

slides: $(VENV)/docs
	$(BIN)/python docs/decks.py docs/_build/slides

ifeq ($(INSTALL),no)
GPU = build/gpu/musiq_ref.dist-info
GPU_PYTHON = $(PYTHON)
gpu: export PYTHONPATH = .:backends:build/gpu
else
GPU = $(VENV)/gpu$(CUDA)
GPU_PYTHON = $(BIN)/python
endif

gpu: $(GPU)
	$(GPU_PYTHON) benchmarks/gpu.py -o gpu.json $(REHEARSE)

# What an installation would say of the package: where its backend is.
build/gpu/musiq_ref.dist-info: pyproject.toml
	@mkdir -p $@
	@printf 'Metadata-Version: 2.1\nName: musiq_ref\nVersion: 0\n' > $@/METADATA
	@printf '[musiq_ref.backends]\ncupy = musiq_ref_cupy:backend\n' > $@/entry_points.txt
	@touch $@

torture: $(VENV)/test
	$(BIN)/python -m tests.torture --count $(COUNT) --seed $(SEED)

# On a machine with nothing else to do; writes docs/benchmarks/PROCESSOR.json and the tables made of such files.
bench: $(VENV)/verify
	$(BIN)/musiq-ref bench $(BENCH) --json docs/benchmarks
	$(BIN)/python benchmarks/speed_tables.py

# $(VENV)/test says that the extra `test` is installed: it is made anew when what is asked for changes.
SIZE_pictures = about 75 MB to download
SIZE_test = about 95 MB to download
SIZE_test-all = up to 3 GB to download
SIZE_tutorials = about 95 MB to download
SIZE_verify = up to 3 GB to download

HAS_PIP = $(BIN)/python -m pip --version >/dev/null 2>&1

$(VENV)/%: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "musiq_ref needs Python 3.11 or newer, and $(PYTHON) is %d.%d; run: make PYTHON=python3.11 ..." % sys.version_info[:2] or 0)'
	@echo "Installing musiq_ref[$*] in $(VENV)$(if $(SIZE_$*), ($(SIZE_$*)))"
	@$(HAS_PIP) || $(PYTHON) -m venv $(VENV) && $(HAS_PIP) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]' -c $(CONSTRAINTS)
	@touch $@

# The GPU's wheels of CuPy replace those that the tests read.
$(VENV)/gpu$(CUDA): $(VENV)/test
	$(BIN)/python -m pip uninstall --quiet --yes cupy-cuda12x
	$(BIN)/python -m pip install --quiet -e '.[cuda$(CUDA)]' -c $(CONSTRAINTS)
	@touch $@

.PRECIOUS: $(VENV)/%

clean:
	rm -rf $(VENV) demo.html follow.html distorted docs/_build docs/course docs/live docs/reference
