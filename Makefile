# `make demo` and `make test` need Python >= 3.10, pip and make; all else is installed into .venv
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
LIST ?=
OUT ?= demo
TRAIN ?=
NB ?= nbs
EXTRAS ?= dev

.PHONY: help venv demo lint test test-notebooks test-pytest lab notebooks check docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/installed ## make .venv and install the package there, editable

.venv/installed: settings.ini setup.py pyproject.toml constraints.txt
	@echo "setting up .venv (torch, fastai, JupyterLab, ...): one to several minutes"
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3,10) and 'Python 3.10 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: venv ## try on with trained networks; TRAIN=1 trains small ones first; DATA=path/to/vvt for your own data, LIST=pairs.csv, OUT=folder
	$(BIN)/shineon demo --out '$(OUT)' $(if $(TRAIN),--train) $(if $(DATA),--data '$(DATA)') $(if $(LIST),--tryon_list '$(LIST)')

lint: venv ## ruff: lines, unused names, likely mistakes
	$(BIN)/ruff check

test: lint test-notebooks test-pytest ## ruff, notebook tests, pytest; the last two in two processes

test-notebooks: venv
	$(BIN)/python .ci/notebooks.py $(NB)

test-pytest: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations 8

lab: venv ## JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs

notebooks: venv ## execute notebooks in place (NB=nbs/models/32_warp.ipynb for one), then clean and export
	for n in `$(BIN)/python -c "import sys; from pathlib import Path; p = Path('$(NB)'); print(*(sorted(p.rglob('*.ipynb')) if p.is_dir() else [p]))"`; do \
	  $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --ExecutePreprocessor.store_widget_state=False --inplace $$n || exit 1; done
	$(MAKE) check

check: venv ## clean notebooks, export shineon/, write README.md
	$(BIN)/nbdev-clean
	$(BIN)/nbdev-export
	$(BIN)/python .ci/readme.py

docs: .venv/docs ## documentation site from the notebooks: open site/index.html
	$(BIN)/python docs/make_site.py

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

clean: ## remove what was built, but neither data nor experiments
	rm -rf .venv build dist site *.egg-info
