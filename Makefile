# Everything is set up by the first target that needs it: `make quickstart` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev
BENCH_INSTALLED := $(VENV)/.installed-bench
# Tests wait for servers and clusters most of the time; each process has its own. In their own order: the long first.
PROCESSES ?= 3
FFCV_TRIED := $(VENV)/.tried-ffcv
BROWSER_TRIED := $(VENV)/.tried-browser
FFCV_LIBRARIES := pkg-config libturbojpeg0-dev libopencv-dev g++
export MPLBACKEND := Agg
# A wheel folder configured on the machine may hold a build of torch that does not fit torchvision's.
export PIP_FIND_LINKS :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test test-all chaos sweep-demo lint format bench clean

quickstart: $(INSTALLED)
	$(BIN)/brewline run quickstart $(ARGS)

test: $(FFCV_TRIED) $(BROWSER_TRIED)
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder -m "not slow and not chaos and not bench" $(ARGS)

test-all: $(FFCV_TRIED) $(BROWSER_TRIED)
	$(BIN)/python -m pytest -m "not bench" $(ARGS)

# Ends by saying how many faults were injected.
chaos: $(INSTALLED)
	$(BIN)/python -m pytest --timeout 600 --session-timeout 2700 tests/chaos $(ARGS)

# Twelve trials on digits, killed in the middle and started again, and their report.
sweep-demo: $(INSTALLED)
	-timeout --signal KILL 150 $(BIN)/brewline sweep digits-eps-budget $(ARGS)
	$(BIN)/brewline sweep digits-eps-budget $(ARGS)
	rm -rf sweep-demo
	$(BIN)/brewline report $$($(BIN)/brewline status $(ARGS) | grep '^digits-eps-budget-' | tail -n 1) -o sweep-demo $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_INSTALLED) $(FFCV_TRIED)
	$(BIN)/python -m pytest -m bench -s --timeout 3000 tests/bench $(ARGS)

# A Python 3.11 or newer with venv; where Debian's lacks venv and we may install packages, it is installed.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "brewline needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q && apt-get install -qy python3-venv \
	    && $(PYTHON) -m venv $(VENV); } \
	  || { rm -rf $(VENV); echo "$(PYTHON) -m venv failed; install your system's package of it (Debian: python3-venv)"; exit 1; }; }

$(INSTALLED): $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

# FFCV compiles against system libraries. Where they are not there and cannot be installed, its tests are skipped.
$(FFCV_TRIED): $(INSTALLED)
	@{ pkg-config --exists libturbojpeg opencv4 2>/dev/null && command -v g++ >/dev/null; } \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q \
	    && apt-get install -qy --no-install-recommends $(FFCV_LIBRARIES); } || true
	@$(BIN)/pip install -q -c constraints.txt -e '.[ffcv]' && $(BIN)/python -c 'import ffcv' \
	  && touch $@ \
	  || echo "FFCV could not be installed: its tests are skipped. It needs $(FFCV_LIBRARIES) (Debian's names)."

# Reports are looked at in a real browser. Where none is there and none can be installed, those tests are skipped.
$(BROWSER_TRIED): $(INSTALLED)
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q \
	    && apt-get install -qy --no-install-recommends chromium; } || true
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null && touch $@ \
	  || echo "Chromium could not be installed: the tests of reports in a browser are skipped."

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
