# Every target does its own set-up: a virtual environment in .venv from requirements.lock (5.3 GB installed).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup search test test-studies test-faults test-long check fix bench lock
setup: $(STAMP)

# The stamp is written last: an install that was interrupted is done again.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not that. Name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' lacks the venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(RUN) || { echo "Set-up: .venv gets 5.3 GB of packages, once. This takes one to several minutes."; $(PYTHON) -m venv $(VENV); }
	@$(RUN) -m uv --version >/dev/null 2>&1 || $(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(RUN) -m uv pip install --quiet --python $(RUN) --require-hashes -r requirements.lock
	$(RUN) -m uv pip install --quiet --python $(RUN) --no-deps --no-build-isolation --editable .
	@touch $@

search: $(STAMP)
	$(RUN) -m tune.search --space search_spaces/demo.yaml

# Three processes of one thread each, since a test that starts Ray waits for a third of its time; a
# file stays in one, so that its tests share what is dear to set up.
AT_ONCE := 3
TEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(TEST) -m "not long and not fault and not study"

# Whole studies from the first trial to the last, which take most of the time.
test-studies: $(STAMP)
	$(TEST) -m "study and not long and not fault"

# What is killed, full or away, but not at many random moments, which is in test-long. These tests wait for most
# of their time, so a fourth process fits on two processors.
test-faults: AT_ONCE := 4
test-faults: $(STAMP)
	$(TEST) --timeout 900 -m "fault and not often"

test-long: $(STAMP)
	$(TEST) --timeout 1800

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

fix: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(RUN) -m tune.request.schema > search_spaces/schema.json

bench: $(STAMP)
	$(RUN) -m benchmarks

lock: $(STAMP)
	$(RUN) -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock
