# Two commands: `make report` makes every figure and number again, `make test` checks everything.
SHELL := /bin/bash
VENV  ?= .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first interpreter that is really there and really is 3.11 or 3.12 with venv (a pyenv shim may be neither).
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null && echo "$$p" && break; done)

export NO_ALBUMENTATIONS_UPDATE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install report test test-slow check export readme docs lab clean clean-notebooks pins

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | while IFS=$$'\t' read -r n t; do printf '  make %-16s %s\n' "$$n" "$$t"; done

# ---- the environment: made once, and again when what it is made from changes -----------------------------------
install: $(STAMP)  ## the environment in .venv, from constraints.txt

$(STAMP): constraints.txt settings.ini setup.py pyproject.toml
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
	  py="$(PYTHON)"; test -n "$$py" || { echo "make: needs Python 3.11 or 3.12 with venv (Debian: python3-venv); or say which: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	  echo "environment: $$("$$py" -V) in $(VENV)" && "$$py" -m venv --clear $(VENV); fi
	@echo "environment: installing what constraints.txt pins (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# ---- the two commands ------------------------------------------------------------------------------------------
report: $(STAMP)  ## run all notebooks: every figure, every result, then README.md
	@$(BIN)/python scripts/run_notebooks.py
	@$(BIN)/python scripts/make_readme.py
	@printf '\nDone. Look at\n  README.md    the overview, with the table of results\n  nbs/         the notebooks, executed (make lab opens them)\n  figures/     every picture\n  results/     every number, with its settings\n  make docs    the same as a site: docs/_build/html/index.html\n'

test: $(STAMP)  ## check everything: notebooks, export, their tests at tiny scale, docs, pytest
	@$(MAKE) --no-print-directory check export
	@echo "nbdev_test, every notebook at scale tiny"
	@HTCV_SCALE=tiny OMP_NUM_THREADS=1 $(BIN)/nbdev_test --timing
	@$(MAKE) --no-print-directory docs
	@HTCV_SCALE=tiny $(BIN)/python -m pytest -m 'not slow'

test-slow: $(STAMP)  ## the tests that take long: packaging, full-size model
	@HTCV_SCALE=tiny $(BIN)/python -m pytest -m slow

# ---- parts of them ---------------------------------------------------------------------------------------------
check: $(STAMP)  ## are the committed notebooks clean and executed?
	@$(BIN)/python scripts/run_notebooks.py --check

export: $(STAMP)  ## export, and fail if htcv/ was not in step
	@$(BIN)/python scripts/check_export.py

readme: $(STAMP)  ## README.md from nbs/index.ipynb
	@$(BIN)/python scripts/make_readme.py

docs: $(STAMP)  ## the site, in docs/_build/html
	@$(BIN)/python scripts/build_docs.py

lab: $(STAMP)  ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=. nbs/index.ipynb

clean-notebooks: $(STAMP)  ## strip the noise of an interactive session from the notebooks
	@$(BIN)/python scripts/run_notebooks.py --clean

pins: $(STAMP)  ## constraints.txt from what is installed in .venv
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel --exclude htcv \
	  | sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.part && mv constraints.part constraints.txt

clean:  ## remove what can be made again, the environment included
	rm -rf $(VENV) _proc _docs docs/_build scratch build dist *.egg-info .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
