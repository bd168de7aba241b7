# make demo    train a model on a text that Python contains, and sample from it
# make test    run the tests
# make check   run everything that CI runs: format, lint, types, tests
# make coverage  run the tests, and print the coverage of each module: half as long again
# make browser install the browser of the browser tests where it is missing
# make docs    generate the reference pages, the folder map and the board
# make faults  kill trainings at random points and compare the resumed runs: a few minutes
# make fuzz    fuzz the loaders of untrusted files: SECONDS for each loader, FUZZ for one loader
# make clean   delete the environment and all caches
#
# Each target first creates the virtual environment .venv. The only requirement is Python 3.11 or
# later with venv. The first one found is used; PYTHON selects another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$python >/dev/null && $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check coverage browser docs faults fuzz clean

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
	$(BIN)/pytest --numprocesses auto --dist worksteal --durations=30

coverage: $(READY)
	$(BIN)/pytest --numprocesses auto --dist worksteal --cov --cov-report=term

# The package manager needs root. Without a browser, the browser tests are skipped, and fail in CI.
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium; \
	else echo "make: the browser tests need Chromium; on Debian, run apt-get install chromium as root" >&2; fi

# Eight kinds of training, killed and resumed 240 times in total.
faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/harness.py --kills 240

# Time for each loader.
SECONDS = 600
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python fuzz/fuzz_loaders.py $(if $(FUZZ),"$(FUZZ)") --seconds $(SECONDS)

docs: $(READY)
	$(BIN)/python docs/reference/generate.py
	$(BIN)/python docs/generate_folder_map.py
	$(BIN)/python benchmarks/board_page.py

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The environment is updated when the dependencies have changed. The name of this project on the
# package index was charlm, which is another project: an environment may still contain it.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: cannot find Python 3.11 or later with venv; on Debian, run apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip uninstall --quiet --quiet --yes charlm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
