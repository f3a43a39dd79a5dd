# make demo     pre-train on the embedded photos, open the checkpoint, write pictures (about five minutes, two cores)
# make test     the tests; SLOW=1 adds the slow ones (what continuous integration runs)
# make quality  ruff and mypy
# make docs     the documentation as a site, docs/build/index.html
# make bench    the step benchmark: lean against published scope, and against a supervised step
# make clean    remove what the targets above made
#
# Every target sets up its own .venv first. PYTHON names the interpreter to start from (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo-run
WORKERS ?= 2
PYTEST_ARGS ?=

ifeq ($(SLOW),1)
MARKS := -m "slow or not slow"
endif

# Two test processes with one thread each use two cores; threads on top of them would only get in each other's way.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 MPLBACKEND=Agg

.PHONY: demo test quality docs bench clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mcl_hf needs Python 3.11 or newer; give one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# compat puts this folder into Python's path; otherwise a clone called mcl_hf would hide the package from the folder above.
$(VENV)/.installed-viz: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --config-settings editable_mode=compat -e '.[viz]'
	@touch $@

$(VENV)/.installed-test: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --config-settings editable_mode=compat -e '.[test,viz]'
	@touch $@

$(VENV)/.installed-dev: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed-viz
	$(BIN)/mcl-hf pretrain --recipe demo --output-dir $(DEMO_DIR) --resume auto
	$(BIN)/python examples/open_checkpoint.py $(DEMO_DIR)

test: $(VENV)/.installed-test
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(MARKS) $(PYTEST_ARGS)

quality: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/build

bench: $(VENV)/.installed-viz
	$(BIN)/python scripts/benchmark_step.py

clean:
	rm -rf $(VENV) $(DEMO_DIR) build dist docs/build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find mcl_hf tests examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +
