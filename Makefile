# The tasks of a working day. Each sets up .venv by itself and is quick when that is there.
#   make demo | make test | make lint | make setup | make help      PYTHON=python3.12 picks another

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
DEMO := outputs/demo
PYTHON ?=
WORKERS ?= auto

help:
	@echo "make demo    an image grid and a video from prompts, with the bundled model"
	@echo "make test    the whole test suite"
	@echo "make lint    style, formatting, types and the floors of the house"
	@echo "make setup   only the environment in $(VENV) (the others do it by themselves)"

setup: $(STAMP)
	@echo "$(VENV) is ready"

$(STAMP): pyproject.toml constraints.txt
	@set -euo pipefail; \
	supported() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		for name in python3.11 python3.12 python3.13 python3 python; do \
			if supported $$name; then python=$$name; break; fi; \
		done; \
	fi; \
	supported "$${python:=python3}" || { \
		echo "error: $$python is not Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	}; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "setup: creating $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV); \
	fi; \
	echo "setup: installing statefilm and what it stands on (torch is the largest part)"; \
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		-c constraints.txt -e '.[train,dev]' 2>&1 | tee $(VENV)/setup.log | awk ' \
		/^ *(Downloading|Using cached) .* [MG]B\)/ { sub(/^ */, "setup:   "); print; fflush() } \
		/^Installing collected/ { print "setup:   unpacking"; fflush() } \
		/^ERROR/ { print; fflush() }' || { \
		echo "error: installing failed; the log is $(VENV)/setup.log" >&2; exit 1; \
	}; \
	touch $(STAMP)

demo: $(STAMP)
	@mkdir -p $(DEMO)
	@echo "demo: drawing the $$(grep -c . examples/prompts.txt) prompts of examples/prompts.txt"
	@$(BIN)/statefilm image --prompts-file examples/prompts.txt --grid --seed 4 \
		--output $(DEMO)/grid.png --force
	@echo "demo: filming \"a red circle moves right\""
	@$(BIN)/statefilm video "a red circle moves right" --seed 7 --output $(DEMO)/clip.mp4 --force
	@echo "demo: look at $(CURDIR)/$(DEMO)/grid.png and $(CURDIR)/$(DEMO)/clip.mp4"

test: $(STAMP)
	@echo "test: running the whole suite"
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup

lint: $(STAMP)
	@echo "lint: style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "lint: types"
	@$(BIN)/mypy
	@echo "lint: floors"
	@$(BIN)/lint-imports --no-logo
