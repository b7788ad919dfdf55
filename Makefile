# make demo   sets everything up and scores the bundled photographs
# make test   sets everything up and runs all tests
# make lint   style and types
# make train-demo  trains the bundled model anew, from nothing
# make tutorials      executes all chapters of the course and writes their notebooks
# make tutorials-lab  opens the course in Jupyter
# make docs   the documentation site, in docs/_build/html
# make gpu    the tests of the array code on a GPU (CUDA=12 or 13)
# make bench  side by side with PyTorch, in one run

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
CUDA ?= 12
BIN = $(VENV)/bin
PHOTOGRAPHS = musiq_ref/data/photographs

.PHONY: demo test lint train-demo tutorials tutorials-lab docs gpu bench clean

demo: $(VENV)/demo
	$(BIN)/musiq-ref distort $(PHOTOGRAPHS)/cat.png $(PHOTOGRAPHS)/coffee.png -o distorted
	$(BIN)/musiq-ref score $(PHOTOGRAPHS) distorted
	$(BIN)/musiq-ref explain $(PHOTOGRAPHS)/coffee.png -o demo.html

test: $(VENV)/test
	$(BIN)/python -m pytest

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Hours on 2 cores; if it is stopped, the same command goes on. Two processes of one thread do more than one of two.
TRAIN = $(BIN)/mpiexec -n 2 $(BIN)/musiq-ref train --set threads=1

train-demo: $(VENV)/mpi
	$(TRAIN) --recipe synthetic -o demo-run/first
	$(TRAIN) --recipe synthetic_refined --set init=demo-run/first/last.safetensors -o demo-run/second
	$(TRAIN) --recipe synthetic_sharp --set init=demo-run/second/last.safetensors -o demo-run/third
	$(TRAIN) --recipe synthetic_varied --set init=demo-run/third/last.safetensors -o demo-run/fourth
	cp demo-run/fourth/last.safetensors musiq_ref/data/demo.safetensors
	$(BIN)/musiq-ref evaluate --dataset synthetic --checkpoint demo -o demo-run/evaluation

tutorials: $(VENV)/demo
	$(BIN)/python tutorials/notebooks.py

tutorials-lab: $(VENV)/demo
	$(BIN)/python -m pip install --quiet jupyterlab -c $(CONSTRAINTS)
	cd tutorials && ../$(BIN)/jupyter lab

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html

gpu: $(VENV)/gpu$(CUDA)
	MUSIQ_REF_TEST_BACKENDS=numpy,cupy $(BIN)/python -m pytest tests/test_ops.py tests/test_model.py tests/test_cupy_backend.py

bench: $(VENV)/test
	$(BIN)/python benchmarks/compare_torch.py

# A folder's stamp says what is installed in it; it is made anew when what is asked for changes.
$(VENV)/demo: pyproject.toml $(CONSTRAINTS)
	$(call install,-e '.[tutorials]')

$(VENV)/test: pyproject.toml $(CONSTRAINTS)
	$(call install,-e '.[test]')

$(VENV)/mpi: pyproject.toml $(CONSTRAINTS)
	$(call install,-e '.[mpi]')

$(VENV)/docs: pyproject.toml $(CONSTRAINTS)
	$(call install,-e '.[docs]')

$(VENV)/gpu$(CUDA): pyproject.toml $(CONSTRAINTS)
	$(call install,-e '.[test]')
	$(BIN)/python -m pip uninstall --quiet --yes cupy-cuda12x
	$(BIN)/python -m pip install --quiet -e '.[cuda$(CUDA)]' -c $(CONSTRAINTS)

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "musiq_ref needs Python 3.11 or newer, and $(PYTHON) is %d.%d; run: make PYTHON=python3.11 ..." % sys.version_info[:2] or 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(1) -c $(CONSTRAINTS)
	touch $@
endef

clean:
	rm -rf $(VENV) demo.html distorted docs/_build docs/course docs/reference
