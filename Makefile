# Every target sets up what it needs. PYTHON is the interpreter the virtual environment is made from.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip install --quiet

# Without a GPU, the CPU build of torch is taken where pip's index offers it: it is a tenth of the CUDA one. For
# another index: make setup CPU_TORCH='torch --index-url URL'.
CPU_TORCH ?= torch==2.13.0+cpu

.PHONY: help setup quickstart bench-train bench-generate fuzz faults test lint clean

help:
	@echo "make quickstart   the whole loop on real models: teacher, traces, LoRA, verdict"
	@echo "make test         every test, a few of them on a real model"
	@echo "make bench-train  training speed and memory beside TRL; QUESTIONS=FILE with question and answer a line"
	@echo "make bench-generate  traces per hour beside a plain loop and raw engines; QUESTIONS=FILE, LITERAL=questions"
	@echo "make fuzz         random and coverage-guided input for every reader, a minute each"
	@echo "make faults       kills, full disks and twins on real processes, ten minutes; mounts a tmpfs of its own"
	@echo "make lint         ruff and mypy"
	@echo "make setup        only the virtual environment in $(VENV)"

setup: $(READY)

$(READY): pyproject.toml
	@echo "installing into $(VENV), which takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@command -v nvidia-smi >/dev/null || $(PIP) $(CPU_TORCH) 2>/dev/null || \
		echo "pip cannot install $(CPU_TORCH): the default build of torch is installed, ten times as large on Linux"
	$(PIP) -e '.[dev]'
	touch $(READY)

quickstart: $(READY)
	$(BIN)/cotdistill run recipes/quickstart.yaml

bench-train: $(READY)
	$(PIP) -e '.[trl]'
	$(BIN)/python -m benchmarks.train --questions $(QUESTIONS) --lengths 256 512 1024 \
		--student smollm2-135m-instruct --rows 64 --student qwen2.5-coder-0.5b-instruct --rows 16

# LITERAL: how many questions of each block the slow loop answers; all of them without it.
bench-generate: $(READY)
	$(PIP) ctranslate2 matplotlib
	$(BIN)/python -m benchmarks.generate --questions $(QUESTIONS) --literal $(or $(LITERAL),0)
	$(BIN)/python -m benchmarks.generate --questions $(QUESTIONS) --curve docs/cost_curve.svg

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

fuzz: $(READY)
	$(PIP) atheris
	COTDISTILL_FUZZ=2000 $(BIN)/python -m pytest tests/test_fuzz.py
	$(BIN)/python tests/fuzz_atheris.py --seconds $(or $(SECONDS),60)

faults: $(READY)
	$(BIN)/python tests/faults/suite.py

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
