# make demo: set up, train on an embedded corpus, print novel text.    make test: set up, run the tests.
# make check: what CI runs.    Python 3.11 or later is all that must be there: PYTHON names another than the first found.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$python >/dev/null && $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check docs faults fuzz clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/charlm train --config configs/quickstart.yaml --out runs/demo
	$(BIN)/charlm sample runs/demo --temperature 0.7 --length 600

test: $(READY)
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist worksteal --cov --cov-report=term --durations=30

# Trainings of eight kinds, killed 240 times and taken up again: a few minutes.
faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/harness.py --kills 240

# Each loader of files for so many seconds; FUZZ names one of them.
SECONDS = 600
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python fuzz/fuzz_loaders.py $(if $(FUZZ),"$(FUZZ)") --seconds $(SECONDS)

docs: $(READY)
	$(BIN)/python docs/reference/generate.py
	$(BIN)/python docs/generate_folder_map.py

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Made again whenever what it was made from has changed.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later with venv found; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
