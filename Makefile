# Every target builds what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo demo-compare demo-ray test test-fast check bench load pictures clean

setup: $(STAMP)

# torch goes first: the version that the constraints pin decides everything that resolves after it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,dev]'
	touch $@

demo: setup
	$(BIN)/hybridstitch demo

# The stitched against the plain archive, 32 held-out prompts x 2 seeds: build/compare/report.html.
demo-compare: setup
	$(BIN)/python -m hybridstitch.compare.demo

# The same picture on TorchServe and on Ray Serve with two replicas, compared byte by byte.
demo-ray: setup
	$(BIN)/hybridstitch demo --engine ray --out demo-ray

# Two processes. Each takes a whole file at a time and starts one TorchServe, which its files share; the longest files
# go first. One file, or one test of it, needs no target:
#   .venv/bin/python -m pytest tests/test_loop.py
#   .venv/bin/python -m pytest tests/test_loop.py -k ras_by_hand
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Every test.
test: setup
	$(PYTEST)

# Without the tests that need a TorchServe and those that take more than about 3 s: the ones to run after each change.
test-fast: setup
	$(PYTEST) -m "not server and not slow"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The table of docs/benchmarks.md: real HTTP requests to both endpoints, interleaved, and fidelity on held-out prompts.
bench: setup
	$(BIN)/python -m hybridstitch.compare.several

# Hundreds of mixed requests from eight clients, every answer checked, and what TorchServe itself and batches cost.
load: setup
	$(BIN)/python -m tests.load --batching

# The pictures of the README.
PROMPT := rocket on black
pictures: setup
	for recipe in large small hybridstitch hybridstitch-plus; do \
	  $(BIN)/hybridstitch generate "$(PROMPT)" --seed 0 --recipe $$recipe --out docs/images/readme-$$recipe.png \
	    $$([ $$recipe != hybridstitch-plus ] || echo --mask-overlay docs/images/readme-mask.png) || exit 1; \
	  $(BIN)/python -c 'import sys; from PIL import Image; path = sys.argv[1]; picture = Image.open(path); \
	    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)' \
	    docs/images/readme-$$recipe.png || exit 1; \
	done

clean:
	rm -rf $(VENV) build demo demo-ray
