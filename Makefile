# Two commands matter: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test pytest test-gpu lint wheel bench studies docs crash fuzz clean

demo: $(VENV)/.installed
	$(BIN)/depprobe jacobian --layer lstm --n 1000

# types are checked while tests run: that takes one processor for a minute
test: $(VENV)/.installed-test
	$(MAKE) -j 2 lint pytest

pytest: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# what is measured on a CUDA device; skipped, saying so, where there is none
test-gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m gpu -rs

# sweeps killed, ended, crossed, starved and damaged at random times, fifty times each: about an hour
crash: $(VENV)/.installed-test
	DEPPROBE_CRASHES=50 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/test_sweep_crashes.py

# hostile input: 6,000 cases of each of 22 kinds
fuzz: $(VENV)/.installed-test
	DEPPROBE_FUZZ=6000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/test_fuzz.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the built wheel in an environment with nothing but what it needs at run time, compiled as far as it is used
wheel: | $(BIN)/python
	rm -rf build/wheel
	$(BIN)/python -m pip wheel -q -c constraints.txt --no-deps -w build/wheel .
	$(PYTHON) -m venv build/wheel/env
	build/wheel/env/bin/python -m pip install -q --no-compile -c constraints.txt build/wheel/*.whl
	cd build/wheel && env -u PYTHONPATH env/bin/depprobe jacobian --layer lstm --n 1000

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/jacobian.py

# every study in turn, also after one that fails; what is made already by the code as it is stays
studies: $(VENV)/.installed-studies
	@failed=; for script in studies/[0-9]*.py; do $(BIN)/python $$script $(if $(QUICK),--quick) || failed="$$failed $$script"; done; \
	if [ -n "$$failed" ]; then echo "not done:$$failed" >&2; exit 1; fi

docs: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html $(SPHINXOPTS)
	@echo docs/_build/html/index.html

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e .
	touch $@

# in one step: another would build the package and look through its requirements once more
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[test]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[bench]'
	touch $@

$(VENV)/.installed-studies: $(VENV)/.installed
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[studies]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache
