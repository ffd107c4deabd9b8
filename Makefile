# Everything that is run by hand; `make` alone lists it. Each target sets up what it needs first.
PYTHON ?= python3
CONFIG := configs/quickstart_shapes.yaml

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Written last, so that an interrupted set-up is never taken for a finished one.
READY := $(VENV)/ready

# An environment knows its own path: in a folder that was moved or copied it is set up again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all lint docs doctor clean FORCE
help:
	@echo "make quickstart  train on generated shapes and evaluate every operating point"
	@echo "make test        style, types and tests, without the long ones (marked slow)"
	@echo "make test-all    style, types and all tests"
	@echo "make lint        style and types alone"
	@echo "make docs        the documentation site, in build/docs"
	@echo "make doctor      what is installed, what fits, what to do about the rest"
	@echo "make setup       only the environment in $(VENV), which every target above makes by itself"
	@echo "make clean       remove the environment and caches; output/ and datasets/ stay"
	@echo "PYTHON=python3.12 chooses another Python than python3 to make the environment with."

setup: $(READY)

$(READY): requirements.txt setup.py pyproject.toml mutualnet.py tools/install_detectron2.py
	@rm -f $@
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON); Python 3.10 or newer is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); 3.10 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing requirements.txt into $(VENV) (the first time downloads torch: minutes)"
	@# No build isolation: builds use the pinned setuptools instead of downloading the newest.
	@$(PIP) install --quiet $$(sed -n 's/^\(setuptools==[^ ]*\).*/\1/p' requirements.txt)
	@$(PIP) install --quiet --no-build-isolation --use-pep517 -r requirements.txt
	@$(PY) tools/install_detectron2.py
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@report=$$($(PY) tools/doctor.py) || { echo "$$report"; echo "error: the set-up does not fit; try make clean, then again" >&2; exit 1; }
	@echo "$(CURDIR)" > $@

# One thread: on a network this small, a second one costs more than it gives.
# --resume: a quick start that was killed continues where it was.
quickstart: export OMP_NUM_THREADS ?= 1
quickstart: $(READY)
	$(PY) tools/train_net.py --config-file $(CONFIG) --resume
	$(PY) tools/eval_grid.py --config-file $(CONFIG) --resume

PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -q -rs -n 2

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST) --cov=mutualnet_det

lint: $(READY)
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy | $(PY) -m mypy_baseline filter || \
		{ echo "error: mypy finds other errors than mypy-baseline.txt lists. Mend the new ones; if there are" \
		"only fewer, run: $(PY) -m mypy | $(PY) -m mypy_baseline sync" >&2; exit 1; }

# A warning is an error. Links into other projects' pages need the network: DOCS_INVENTORIES=1.
docs: $(READY)
	@$(PY) -m sphinx -W --keep-going -q docs build/docs
	@echo "The site is in build/docs/index.html."

doctor: $(READY)
	@$(PY) tools/doctor.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
