# Everything sets itself up in .venv; nothing needs to be installed but the system tools below.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := $(shell nproc 2>/dev/null || echo 2)
TYPED := build/typed/vitessera
# The host runtime is tested on both generations of PYNQ, each in an environment of its own: they
# pin older versions of numpy and protobuf than the compiler is developed with.
PYNQS := pynq3 pynq4
PYNQ_TESTS := tests/host tests/vivado/test_handoff.py tests/cli tests/field -m "pynq"

.PHONY: demo test check zoo campaign bench bench-full docs lint types clean help tools

help:
	@echo "make demo    the digits model from ONNX to verified RTL"
	@echo "make test    all tests"
	@echo "make check   lint, types and the tests that need no simulator (under a minute)"
	@echo "make zoo     exports of many libraries' models, from ONNX to the RTL (part of make test)"
	@echo "make campaign HOURS=2   random programs on random accelerators, on the RTL"
	@echo "make bench   products and DeiT-Tiny at 256 and 1024 MACs, in RTL cycles (15 minutes)"
	@echo "make bench-full   DeiT-Small, ViT-Base and slow DRAM, too (an hour)"
	@echo "make docs    docs/registers.md and docs/isa.md from their definitions"

demo: $(VENV)/sim
	$(BIN)/python examples/digits/demo.py

test: $(VENV)/dev $(PYNQS:%=$(VENV)-%/ready)
	$(BIN)/python -m pytest -n $(JOBS) -rs --durations 15
	@for pynq in $(PYNQS); do \
	  echo "The host runtime on $$pynq:"; \
	  $(VENV)-$$pynq/bin/python -m pytest -n $(JOBS) -rs --durations 5 $(PYNQ_TESTS) || exit; \
	done

check: lint types $(VENV)/dev
	$(BIN)/python -m pytest -n $(JOBS) -q \
	  -m "not kernel and not accelerator and not export and not synth and not slow"

zoo: $(VENV)/dev
	$(BIN)/python -m pytest -n $(JOBS) -rs tests/zoo

HOURS ?= 1
campaign: $(VENV)/dev
	$(BIN)/python tests/campaign/campaign.py --hours $(HOURS)

bench: $(VENV)/dev
	$(BIN)/python -m vitessera.sim.benchmark

bench-full: $(VENV)/dev
	$(BIN)/python -m vitessera.sim.benchmark --full

docs: $(VENV)/sim
	$(BIN)/python -m vitessera.codegen.docs

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow an editable install's mapping of folders to packages: links do.
types: $(VENV)/dev
	@mkdir -p $(TYPED)
	@for folder in cli codegen hls host sim; do ln -sfn ../../../$$folder $(TYPED)/$$folder; done
	$(BIN)/mypy

# --- Set-up: one environment; `sim` for running, `dev` for everything.

$(VENV)/base: | tools
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "vitessera needs Python 3.10 or newer; set PYTHON=python3.x"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing. Run: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/sim: pyproject.toml | $(VENV)/base
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[sim]'
	@$(BIN)/python -m vitessera.sim.verilator
	@touch $@

$(VENV)/dev: pyproject.toml | $(VENV)/base
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -m vitessera.sim.verilator
	@touch $@ $(VENV)/sim

$(VENV)-pynq3/ready: PYNQ := 'pynq>=3.1,<4' 'pycparser<3'
$(VENV)-pynq4/ready: PYNQ := 'pynq>=4,<5'
$(VENV)-pynq%/ready: pyproject.toml | $(VENV)/base
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -e '.[sim,notebook,test]' $(PYNQ)
	@touch $@

tools:
	@for tool in g++ perl $(PYTHON); do command -v $$tool > /dev/null || \
	  { echo "$$tool is not installed. Run: apt-get install $$tool"; exit 2; }; done

clean:
	rm -rf build $(VENV) $(PYNQS:%=$(VENV)-%)
