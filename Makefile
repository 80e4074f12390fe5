# make train [ARGS="overrides"]   train the demo, or whatever ARGS say
# make evaluate [RUN=runs/demo]   word error rates, distances, alignment errors on sentences never trained on
# make atlas [ARGS="NAME ..."]    every experiment of the laboratory, its measurements into docs/atlas.md (hours)
# make test  [ARGS="..."]         the whole test suite, on all cores
# make lint types                 ruff and mypy
# make setup                      the environment alone: .venv, exact versions from constraints.txt

PYTHON ?= python3
PY := .venv/bin/python

RUN ?= runs/demo

.PHONY: setup train evaluate atlas test lint types clean

setup: .venv/.stamp

train: .venv/.stamp
	$(PY) train.py $(ARGS)

evaluate: .venv/.stamp
	$(PY) scripts/evaluate.py $(RUN) $(ARGS)

atlas: .venv/.stamp
	$(PY) scripts/make_atlas.py $(ARGS)

test: .venv/.stamp
	$(PY) -m pytest -n auto --dist loadfile $(ARGS)

lint: .venv/.stamp
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: .venv/.stamp
	$(PY) -m mypy

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

# Through uv where pip can get it (four times faster), else by pip alone.
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("vitslite needs Python 3.11 to 3.13, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (about 6 GB with PyTorch)"
	@if $(PY) -m pip install -q --disable-pip-version-check uv; then \
		$(PY) -m uv pip install -q --python $(PY) -e '.[dev]' -c constraints.txt; \
	else false; fi || $(PY) -m pip install -q --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
