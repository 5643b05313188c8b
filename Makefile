# The two commands a newcomer needs:
#   make demo   compile and run examples/gemma2.attn (on the GPU if there is one)
#   make test   every check and every test that needs no GPU
# Both create .venv first, with the versions in constraints.txt; later runs find it ready.

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# The compiler of the Hopper kernels, 400 MB that only tests of their machine code need.
CUTE   := $(VENV)/cute
# The first Python on the path that is new enough.
FIND    = for p in python3 python3.13 python3.12 python3.11 python; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done
PYTHON ?= $(shell $(FIND))
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test slow gpu check golden bench clean

help:
	@sed -n '1,4s/^# \{0,1\}//p' Makefile
	@echo "  make gpu    the tests that need a GPU        make golden  rewrite generated/"
	@echo "  make check  linters and types only           make bench   time against FlexAttention"
	@echo "  make slow   the tests that take minutes: more random specs, every example for every GPU"

$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "attngen needs Python 3.11 or newer (set PYTHON=/path/to/python3)" >&2; exit 2; }
	@echo "Preparing $(VENV): the pinned packages of constraints.txt. Once; PyTorch is the large one."
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[test,dev,draw]'
	@touch $@

$(CUTE): $(READY)
	@echo "Adding the CuTe DSL, for tests that read compiled kernels. Once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[cute]'
	@touch $@

demo: $(READY)
	@$(BIN)/attngen demo

test: check $(CUTE)
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(CUTE)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow --hypothesis-profile search

gpu: $(READY)
	$(BIN)/python -m pytest -m "(gpu or sm90) and not slow"

golden: $(READY)
	$(BIN)/attngen regenerate

bench: $(READY)
	$(BIN)/python bench/forward.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
