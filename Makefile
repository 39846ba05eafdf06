# Everything a person or a machine does with this project. Python 3.11 or newer and make suffice for `make demo`.

PYTHON ?= python3
VENV ?= .venv
PORT ?=
ONCE ?=
ARGS ?=
CAMPAIGN ?= ../campaign
DATA ?= ../shared/data/train

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt --editable
REQUIREMENTS := pyproject.toml constraints.txt

# Install quietly: what pip and the compilers say matters only if they fail.
install = log=$$(mktemp) && { $(INSTALL) $(1) >"$$log" 2>&1 || { tail -n 20 "$$log" >&2; rm -f "$$log"; false; }; } && rm -f "$$log"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench skill clean
.PHONY: campaign campaign-status campaign-pause campaign-continue campaign-stop campaign-renew

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12 picks the interpreter, VENV=.venv the folder everything is installed into."

demo: $(VENV)/.installed ## the whole service on this machine with simulated rain (PORT=8000; ONCE=1 ends by itself)
	@exec $(BIN)/nowcast demo $(if $(filter-out 0 no false,$(ONCE)),--once) $(if $(PORT),--port $(PORT))

# All of them run a file at a time on each core; a part runs as it is asked for, so that a debugger can stop in it.
# Compiled modules are kept whatever the environment says: the tests start a hundred processes that import them.
test: $(VENV)/.installed-test $(VENV)/.installed-oracles ## the tests, with coverage; a part without: ARGS=tests/api, ARGS='-m slow'
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(or $(ARGS),-n logical --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered)

check: $(VENV)/.installed-test ## formatting, lint, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.installed-test $(VENV)/.installed-oracles ## times of each stage beside its peers (ARGS=--help for more)
	@$(BIN)/python -m benchmarks $(ARGS)

skill: $(VENV)/.installed-test $(VENV)/.installed-oracles ## skill of every method beside its peers, into docs/skill.md (hours; resumes)
	@$(BIN)/python -m benchmarks skill -o docs/skill.md $(ARGS)

# From a frozen copy of the last commit, in a folder beside this one that holds all the campaign leaves, too.
CAMPAIGN_TOOL = $(BIN)/python -m benchmarks.campaign --folder $(CAMPAIGN) --raw $(DATA)

campaign: $(VENV)/.installed-test ## train every network, on idle cores; goes on after a kill (CAMPAIGN=DIR, DATA=DIR)
	@$(CAMPAIGN_TOOL) start $(ARGS)

campaign-status: ## how far each network is (ARGS=--json for programs)
	@$(CAMPAIGN_TOOL) status $(ARGS)

campaign-pause: ## let the campaign rest, as for a benchmark
	@$(CAMPAIGN_TOOL) pause

campaign-continue: ## let a campaign that was paused go on
	@$(CAMPAIGN_TOOL) continue

campaign-stop: ## end the campaign's processes; make campaign goes on from there
	@$(CAMPAIGN_TOOL) stop

campaign-renew: $(VENV)/.installed-test ## let the campaign run the last commit; other plans start anew beside the old
	@$(CAMPAIGN_TOOL) renew $(ARGS)

clean: ## remove the virtual environment and what tools left
	@rm -rf $(VENV) build *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# A stamp is newer than what it was made from, so a second call installs nothing.

$(VENV)/.created: deploy/make_venv.py
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) deploy/make_venv.py $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(REQUIREMENTS)
	@echo "Installing the service into $(VENV) (1.7 GB, a minute or two the first time)"
	@$(call install,'.[all]')
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created $(REQUIREMENTS)
	@echo "Installing the service and what its tests need into $(VENV) (2.3 GB, minutes the first time)"
	@$(call install,'.[test]')
	@touch $@ $(VENV)/.installed

# Independent implementations to compare with. pysteps compiles, so this may fail where there is no compiler.
$(VENV)/.installed-oracles: $(VENV)/.installed-test
	@echo "Installing pysteps, wradlib, cfgrib and scores to compare with (minutes where pysteps compiles)"
	@$(call install,'.[oracles]') || \
	  echo "They could not be installed (pysteps needs a C compiler): tests that compare with them will be skipped." \
	    "To try again: rm $@"
	@touch $@
