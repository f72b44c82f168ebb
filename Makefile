# dicomnode: needs git, make and Python 3.11 or newer; `make demo` and `make test` set up the rest.

.DEFAULT_GOAL := help
.PHONY: help demo test lint reference clean
SHELL := /bin/bash
BIN := .venv/bin
OUT ?= demo-out

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 20

demo:  ## the whole loop on this machine: node, archive, samples, results in demo-out/
	@bash .ci/setup demo
	@$(BIN)/dicomnode demo --out $(OUT)

test: lint  ## every check and test
	@$(BIN)/python -m pytest

lint:  ## ruff, mypy, codespell
	@bash .ci/setup test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/codespell

reference:  ## write ae_config/README.md and docs/log.md anew from the code
	@$(BIN)/python -m dicomnode.reference

clean:  ## remove what was built and cached (not .venv)
	@rm -rf build dist *.egg-info demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	@find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
