# Set-up and the everyday commands. Only Python 3.11+ (with venv), make and git are needed; works with make 3.81 (macOS).
.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench fuzz soak screenshots lock clean

# Candidates are run, not looked up: a pyenv shim exists for versions that are not active and then fails.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
V := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(V)/python -m pip install --quiet
PYTEST := $(V)/python -m pytest
JOBS ?= 2

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/runtime.stamp ## a simulated company through the real gateway: where the money went (under two minutes)
	@$(V)/bursar demo

test: lint ## lint, then the whole test suite (what .ci/run calls)
	@$(PYTEST) -n $(JOBS)

lint: .venv/test.stamp ## ruff, and pyright strict on domain, rules and wire
	@$(V)/ruff check .
	@$(V)/pyright

docs: .venv/test.stamp ## run every example in the documentation
	@$(PYTEST) -n $(JOBS) tests/docs

bench: .venv/test.stamp ## CPU and latency against nginx, ledger ingest and queries: a table of ratios
	@$(V)/python -m bench

fuzz: .venv/test.stamp ## the long random runs
	@$(PYTEST) -n $(JOBS) -m fuzz --timeout 0

screenshots: .venv/test.stamp ## every page of the dashboard on the demo's ledger, into docs/pictures (needs Chromium)
	@$(V)/python docs/screenshots.py

soak: .venv/test.stamp ## the long runs under load, with faults
	@$(PYTEST) -m soak --timeout 0

# The files name no index host, so that they install from whichever index is set up. All three agree on every version.
LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header
lock: .venv/test.stamp ## pin every dependency anew, with hashes (UPGRADE=--upgrade: to the newest)
	@$(PIP) uv
	@$(LOCK) $(UPGRADE) pyproject.toml --group build --group test -o requirements-test.txt
	@$(LOCK) pyproject.toml -c requirements-test.txt -o requirements.txt
	@$(LOCK) --group build -c requirements-test.txt -o requirements-build.txt
	@$(LOCK:3.11=3.12) $(UPGRADE) --group focus -o requirements-focus.txt

.focus/stamp: requirements-focus.txt
	@echo "installing the FOCUS validator (half a gigabyte, only once)"
	@rm -rf .focus && $(PYTHON) -m venv .focus
	@.focus/bin/python -m pip install --quiet --disable-pip-version-check --ignore-requires-python --require-hashes -r $<
	@.focus/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' || .focus/bin/python tests/exports/focus_on_311.py .focus/lib/python3.11/site-packages
	@touch $@

clean: ## remove the environment and everything made by the commands above
	rm -rf .venv .focus build dist demo-ledger .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "Bursar needs Python 3.11 or newer, and none of python3.13, python3.12, python3.11," \
		"python3, python on the PATH is. Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) comes without venv." \
		"On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up .venv with `$(PYTHON) --version 2>&1`"
	@rm -rf .venv && $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/runtime.stamp: .venv/pyvenv.cfg requirements.txt requirements-build.txt pyproject.toml
	@echo "installing `grep -c == requirements.txt` pinned packages, hashes checked (half a minute, only once)"
	@$(PIP) --require-hashes -r requirements.txt -r requirements-build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test.stamp: .venv/runtime.stamp requirements-test.txt
	@echo "installing `grep -c == requirements-test.txt` pinned packages for the tests, hashes checked (a minute or two, only once)"
	@$(PIP) --require-hashes -r requirements-test.txt
	@touch $@
