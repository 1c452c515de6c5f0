# The environment is .venv: `.venv/bin/sluice` is the command line after any target below.
# uv is used where it is found, pip otherwise; both install exactly the hashes in requirements/.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Passed on to pip and uv by the environment; a setting like PIP_USER=1 would miss .venv.
export PIP_USER = 0
export PIP_REQUIRE_VIRTUALENV = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: .installed-run ## Set everything up and run it in the foreground
	@exec .venv/bin/sluice up

.PHONY: demo
demo: .installed-run ## Send sample events, through a stack of its own if none runs
	@$(demo)

.PHONY: test
test: .installed-dev ## Run all tests against real servers that they start themselves
	@set -e; if [ -n "$(ARGS)" ]; then exec .venv/bin/pytest $(ARGS); fi; \
	.venv/bin/pytest --numprocesses auto --maxprocesses 4 --dist worksteal --ignore tests/fault; \
	echo "and what kills processes under load, which has the machine to itself" >&2; \
	exec .venv/bin/pytest tests/fault

.PHONY: check
check: .installed-dev ## Lint, formatting, types, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy --strict examples/partner/send.py examples/application/sluice_client.py
	cd $(EXAMPLES) && MYPYPATH=$(CURDIR) ../../.venv/bin/mypy src tests
	.venv/bin/lint-imports

.PHONY: bench
bench: .installed-dev ## Measure throughput and latency
	@exec .venv/bin/python -m tests.bench $(ARGS)

.PHONY: lock
lock: ## Resolve requirements/*.txt again (needs uv)
	uv pip compile $(LOCK) --extra embedded --extra build -o requirements/run.txt pyproject.toml
	uv pip compile $(LOCK) --extra embedded --extra build --extra dev \
		-c requirements/run.txt -o requirements/dev.txt pyproject.toml

LOCK = --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate

.PHONY: clean
clean: ## Remove the environment and all caches; SLUICE_HOME stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: .installed-run .installed-dev
.installed-run:
	@set -e; extra=run; $(install)
.installed-dev:
	@set -e; extra=dev; $(install)

# Packages as somebody else would write them; the tests are theirs too.
EXAMPLES = examples/sluice-beacon

# A stamp names everything that its environment depends on, this directory included: an
# environment that was copied along with its clone would run the other clone's code.
define install
packages=; [ "$$extra" = run ] || packages=$(EXAMPLES); \
stamp() { { pwd; cat "requirements/$$1.txt" pyproject.toml examples/*/pyproject.toml; } | cksum; }; \
works() { .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
has() { [ "$$(cat ".venv/.installed-$$1" 2>/dev/null)" = "$$(stamp "$$1")" ]; }; \
if works && { has dev || has "$$extra"; }; then exit 0; fi; \
uv=$$(command -v uv || true); \
if ! works || { [ -z "$$uv" ] && ! .venv/bin/python -m pip --version >/dev/null 2>&1; } \
	|| ! rm -f .venv/.installed-* 2>/dev/null || ! [ -w .venv ]; then \
	python=; \
	for name in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			python=$$name; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Sluice needs Python 3.11 or newer, and none was found; install one" \
			"(apt-get install python3 python3-venv, brew install python@3.13)," \
			"or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if [ -e .venv ] || [ -L .venv ]; then \
		rm -rf .venv 2>/dev/null || mv .venv ".venv.unusable.$$$$" 2>/dev/null \
			|| { echo ".venv is not usable and cannot be removed: sudo rm -rf .venv" >&2; exit 1; }; \
	fi; \
	echo "making .venv with $$("$$python" --version)" >&2; \
	if [ -n "$$uv" ]; then "$$uv" venv --quiet --python "$$python" .venv; \
	elif ! "$$python" -m venv .venv; then \
		rm -rf .venv; \
		echo "python3 -m venv does not work here: apt-get install python3-venv, or install uv" >&2; \
		exit 1; \
	fi; \
fi; \
echo "installing requirements/$$extra.txt" >&2; \
if [ -n "$$uv" ]; then \
	pip() { "$$uv" pip install --quiet --python .venv/bin/python "$$@"; }; \
else \
	pip() { .venv/bin/python -m pip install --quiet "$$@"; }; \
fi; \
pip --require-hashes --only-binary :all: -r "requirements/$$extra.txt" >&2; \
pip --no-deps --no-build-isolation -e . $${packages:+-e "$$packages"} >&2; \
stamp "$$extra" > ".venv/.installed-$$extra"
endef

# `sluice up` ends with 5 where a stack runs already; that one is used, and left running.
define demo
set -e; place=$$(mktemp -d); stack=; \
end() { status=$$?; trap - EXIT; [ -z "$$stack" ] || { kill -TERM "$$stack"; wait "$$stack" || :; }; \
	rm -rf "$$place"; exit "$$status"; }; \
trap end EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
mkfifo "$$place/ready"; \
.venv/bin/sluice up --json > "$$place/ready" 2> "$$place/log" & stack=$$!; \
if ! read -r line < "$$place/ready"; then \
	status=0; wait "$$stack" || status=$$?; stack=; \
	if [ "$$status" -ne 5 ]; then cat "$$place/log" >&2; exit "$$status"; fi; \
fi; \
.venv/bin/sluice demo $(ARGS)
endef
