# One short command per need: the same for people, hooks and CI.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Triton's Python backend is built for 3.10 to 3.12, not for $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -e '.[dev]'
	touch $@

setup: $(STAMP)  ## create .venv and install everything (about 3 minutes, most of it torch)

demo: setup  ## prepare, profile, plan, generate, serve and query real models
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/elastriton demo $(DEMO)

check: setup  ## ruff, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layout.py

test: setup  ## every test that needs no GPU, a real tritonserver included
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest tests

bench: DEMO = --json bench/results/demo.json
bench: demo  ## the measurements behind the figures in the docs (about two hours); most need ../shared/data
	for script in overhead.py levels.py text_levels.py decision.py policies.py "price.py --processes 2" schedules.py "tune.py --minutes 2.5" "live.py --requests 1000"; do \
		PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python bench/$$script || exit 1; done
	$(BIN)/python bench/readme.py

bench-cascades: setup  ## cascades beside their peers: an hour of training, then an hour of measuring; needs ../shared
	for script in cascade_models.py "cascade_models.py banking77 sst2 cola --tiny" vision_cascade_models.py cascades.py pruning.py; do \
		PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python bench/$$script || exit 1; done

clean:  ## remove what the commands above wrote (not .venv)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache

.PHONY: help setup demo check test bench bench-cascades clean
