# Two commands: `make report` makes every figure and number again, `make test` checks everything.
SHELL := /bin/bash
VENV  ?= .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
# One list of versions for everything: settings.ini. Tested ones come first, newest first; then those that only install.
setting = $(shell sed -n 's/^$(1) = //p' settings.ini)
TESTED := $(shell printf '%s\n' $(call setting,python_versions) | sort -rV)
PYTHONS := $(TESTED) $(call setting,python_candidates)
# The first interpreter that is really there and really is one of them, with venv (a pyenv shim may be neither).
PYTHON ?= $(shell for p in $(TESTED:%=python%) python3 python $(PYTHONS:%=python%); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' $(PYTHONS) 2>/dev/null && echo "$$p" && break; done)

export NO_ALBUMENTATIONS_UPDATE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NO_QUARTO := nbdev_docs, nbdev_preview, nbdev_readme and nbdev_proc_nbs need Quarto, which is not installed here: make docs and make readme do the same without it.

.DEFAULT_GOAL := help
.PHONY: help install report test test-slow check step export prepare readme docs lab clean clean-notebooks pins

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | while IFS=$$'\t' read -r n t; do printf '  make %-16s %s\n' "$$n" "$$t"; done

# ---- the environment: made once, and again when what it is made from changes -----------------------------------
install: $(STAMP)  ## the environment in .venv, from constraints.txt

$(STAMP): constraints.txt settings.ini setup.py pyproject.toml
	@if ! $(BIN)/python -c '' 2>/dev/null; then \
	  py="$(PYTHON)"; test -n "$$py" || { echo "make: needs one of Python $(PYTHONS) with venv (Debian: python3-venv); or say which: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	  echo "environment: $$("$$py" -V) in $(VENV)" && "$$py" -m venv --clear $(VENV); fi
	@echo "environment: installing what constraints.txt pins (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# ---- the two commands ------------------------------------------------------------------------------------------
report: $(STAMP)  ## run all notebooks: every figure, every result, then README.md; JOBS=1: not side by side
	@$(BIN)/python scripts/run_notebooks.py $(if $(JOBS),--jobs $(JOBS))
	@$(BIN)/python scripts/make_readme.py
	@printf '\nDone. Look at\n  README.md    the overview, with the table of results\n  nbs/         the notebooks, executed (make lab opens them)\n  figures/     every picture\n  results/     every number, with its settings\n  make docs    the same as a site: docs/_build/html/index.html\n'

test: $(STAMP)  ## check everything: notebooks, export, their tests at tiny scale, docs, pytest
	@$(MAKE) --no-print-directory check step
	@echo "nbdev_test, every notebook at scale tiny"
	@HTCV_SCALE=tiny OMP_NUM_THREADS=1 $(BIN)/nbdev_test --timing
	@$(MAKE) --no-print-directory docs
	@HTCV_SCALE=tiny $(BIN)/python -m pytest -m 'not slow'

test-slow: $(STAMP)  ## the tests that take long: packaging, full-size model
	@HTCV_SCALE=tiny $(BIN)/python -m pytest -m slow

# ---- parts of them ---------------------------------------------------------------------------------------------
check: $(STAMP)  ## are the committed notebooks clean and executed?
	@$(BIN)/python scripts/run_notebooks.py --check

step: $(STAMP)  ## is htcv/ what the notebooks export? changes nothing; names the cells that differ
	@$(BIN)/python scripts/check_export.py

export: $(STAMP)  ## export the notebooks to htcv/, but never over a hand edit
	@$(BIN)/python scripts/check_export.py --write

prepare: $(STAMP)  ## what nbdev_prepare does, without Quarto: export, tests, clean, README.md
	@$(BIN)/python scripts/check_export.py --write
	@HTCV_SCALE=tiny OMP_NUM_THREADS=1 $(BIN)/nbdev_test
	@$(BIN)/python scripts/run_notebooks.py --clean
	@$(BIN)/python scripts/make_readme.py
	@command -v quarto >/dev/null || echo "$(NO_QUARTO)"

readme: $(STAMP)  ## README.md from nbs/index.ipynb
	@$(BIN)/python scripts/make_readme.py

docs: $(STAMP)  ## the site, in docs/_build/html
	@$(BIN)/python scripts/build_docs.py

lab: $(STAMP)  ## JupyterLab on the notebooks; uploads of up to 500 MB reach the app
	@$(BIN)/jupyter lab --notebook-dir=. --ServerApp.tornado_settings='{"websocket_max_message_size":500000000}' nbs/index.ipynb

clean-notebooks: $(STAMP)  ## strip the noise of an interactive session from the notebooks
	@$(BIN)/python scripts/run_notebooks.py --clean

pins: $(STAMP)  ## constraints.txt from what is installed in .venv
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel --exclude htcv \
	  | sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.part && mv constraints.part constraints.txt

clean:  ## remove what can be made again, the environment included
	rm -rf $(VENV) _proc _docs docs/_build scratch build dist *.egg-info .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
