# Targets for people and for CI. Everything is installed into .venv from the pinned versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
RAY := .venv-ray
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo smoke test soak ray bench bench-quick check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "graftlm needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time"
	@$(BIN)/pip install --quiet torch==2.13.0
	@$(BIN)/pip install --quiet -e '.[catalogues,e5,dev]'
	@touch $@

install: $(INSTALLED) ## a virtual environment in .venv with everything pinned

demo: $(INSTALLED) ## sweep baseline and transferred arms on the embedded data; ends with a table and a page
	@$(BIN)/graftlm run -m experiment=demo

smoke: $(INSTALLED) ## the whole path once on the smallest models, in seconds
	@$(BIN)/graftlm run experiment=smoke

test: $(INSTALLED) ## all tests, on two processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# minutes of it on two idle cores; a third goes to faults and races
SOAK_MINUTES ?= 55
soak: $(INSTALLED) ## kills, races and faults over a sweep, compared with one that nothing disturbed (SOAK_MINUTES=55)
	@$(BIN)/python benchmarks/soak_kills.py --kills 50 --minutes $$(( $(SOAK_MINUTES) * 2 / 3 ))
	@$(BIN)/python benchmarks/soak_faults.py --minutes $$(( $(SOAK_MINUTES) / 3 ))
	@$(BIN)/python benchmarks/soak_machine.py

# Hydra's plugin demands older versions than those pinned, which only its launcher for AWS uses: it goes without what it
# depends on, into an environment of its own that looks into the first for everything else
$(RAY)/installed: $(INSTALLED)
	@$(BIN)/python -m venv --clear $(RAY)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> $$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	@echo "installing Ray into $(RAY): half a minute, 250 MB"
	@$(RAY)/bin/pip install --quiet ray==2.60.0
	@$(RAY)/bin/pip install --quiet --no-deps hydra-ray-launcher==1.2.2
	@touch $@

ray: $(RAY)/installed ## the tests of launch=ray, in an environment of their own (.venv-ray)
	@$(RAY)/bin/python -m pytest tests/launch/test_ray.py

bench: $(INSTALLED) ## speed beside the Hugging Face Trainer, on two idle cores: a table, and bench.json
	@$(BIN)/python -m benchmarks.speed --json bench.json

bench-quick: $(INSTALLED) ## the same on small shapes, in minutes: whether all of it runs
	@$(BIN)/python -m benchmarks.speed --quick --json bench-quick.json

check: $(INSTALLED) ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## put the code into its format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the environment and what runs have left
	@rm -rf $(VENV) $(RAY) build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info src/*.egg-info
	@find multirun -mindepth 1 ! -name .gitkeep -delete
