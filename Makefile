# Two commands: `make demo` and `make test`. Both set up what they need; see `make help`.

PYTHON := .venv/bin/python
CHECKED := workbench tests scripts setup.py

.DEFAULT_GOAL := help
.PHONY: help demo test setup-demo setup-test build lint ml clean distclean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

demo: setup-demo  ## set up, record a real database at work, draw flame graph, timeline and table
	@$(PYTHON) -m workbench.cli demo

test: setup-test lint  ## set up, check style, types and the import rule, run the tests
	@$(PYTHON) -m pytest

setup-demo:  ## only what `make demo` needs: packages, .venv, native core, BPF objects
	@scripts/setup demo

setup-test:  ## everything `make test` needs
	@scripts/setup test

build:  ## native core and BPF objects, where a source is newer
	@scripts/setup build

lint:  ## ruff, mypy --strict, import rule
	@$(PYTHON) -m ruff check $(CHECKED)
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache

ml: setup-test  ## add scikit-learn and torch (extra `ml`), which nothing else needs
	@scripts/setup ml

clean:  ## remove what was built; .venv stays
	@rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@rm -rf workbench/objects/built workbench/objects/include workbench/native/*.so workbench/native/agents/*.so workbench/native/demonstrations/*.so
	@rm -rf workbench/native/runtime/bitcode workbench/native/workloads/causal_shapes
	@find workbench tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	@rm -rf .venv *.egg-info
