# make reproduce: run the default study and print the path of its report.   make test: run the tests.
# Both create the environment in .venv if it does not exist.
PYTHON ?= python3
STUDY ?= digits
CORES ?= all
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help reproduce verify reference docs test test-all lint bench gpu-check lock environment unlock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

environment: $(STAMP) ## create .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "offramp needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "this Python cannot make environments: install its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned environment into $(VENV): about 6 GB, 4 minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: $(STAMP) ## run a study and create its report (STUDY=digits, CORES=all)
	snakemake --cores $(CORES) --config study=$(STUDY)
	@echo "report: reports/$(STUDY)/index.html"
	@if [ -d reports/reference/$(STUDY) ]; then \
		offramp compare-reports reports/reference/$(STUDY) reports/$(STUDY) || [ $$? -eq 3 ]; fi  # 3: other parameters

verify: $(STAMP) ## compare a finished report with the committed one: equal, within intervals, verdicts (STUDY=digits)
	offramp compare-reports reports/reference/$(STUDY) reports/$(STUDY)

reference: $(STAMP) ## make a finished report the committed one (STUDY=digits)
	rm -rf reports/reference/$(STUDY)
	mkdir -p reports/reference/$(STUDY)
	cd reports/$(STUDY) && cp -r figures tables *.json ../reference/$(STUDY)

docs: $(STAMP) ## build the documentation, docs/_build/index.html; warnings and dead links are errors
	rm -rf docs/generated  # pages of names that are gone
	sphinx-build -W --keep-going -q docs docs/_build

# Two processes. Tests of one group stay together, and groups run in the order that tests/conftest.py gives them. What is
# compiled is kept, as many processes are started.
PYTEST := PYTHONDONTWRITEBYTECODE= pytest -n 2 --dist loadgroup --no-loadscope-reorder

test: $(STAMP) ## run the tests (5 to 13 minutes on two cores)
	$(PYTEST)

test-all: $(STAMP) ## run all tests, also the long ones; those of Slurm need root and the Debian packages slurm-wlm and munge
	$(PYTEST) -m "" --hypothesis-profile many -rs

lint: $(STAMP) ## check style and types: ruff, mypy, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

bench: $(STAMP) ## run all benchmarks (docs/benchmarks.md)
	python benchmarks/bench_evaluation.py
	python benchmarks/bench_policies.py
	python benchmarks/bench_inference.py
	python benchmarks/bench_training.py
	python benchmarks/bench_overhead.py
	python benchmarks/bench_search.py
	python benchmarks/bench_certify.py
	python benchmarks/bench_alarms.py
	python benchmarks/bench_runtime.py

gpu-check: ## test and benchmark what runs on a GPU (8 minutes); needs torch, timm, transformers and a GPU, no Snakemake
	PYTHONPATH=src python3 -m pytest -q -p no:cacheprovider tests/test_cuda.py
	PYTHONPATH=src python3 benchmarks/bench_runtime.py --device cuda --batches 1 8 32 128 512 1024 --seconds 240

lock: $(STAMP) ## update requirements.lock from pyproject.toml
	python -m pip install --quiet uv
	(echo "# The matched set that CI runs. Made by \`make lock\`; pip install -r requirements.lock reproduces it."; \
	 uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
	 --no-emit-index-url --no-emit-find-links pyproject.toml) > requirements.lock.new
	mv requirements.lock.new requirements.lock

unlock: $(STAMP) ## remove the lock of a killed run, so that make reproduce can continue it
	snakemake --unlock --config study=$(STUDY)

clean: ## delete the results of all studies (keeps .venv and downloads)
	rm -rf artifacts logs benchmarks/results .snakemake
