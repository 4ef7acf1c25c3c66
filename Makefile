# Every target makes .venv and installs what it needs first. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then echo $$p; break; fi; done)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-slurm test-light lint wheel bench bench-engine bench-results bench-compare docs golden figures notebooks clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

# torch and torchvision in one command: a torch alone may be a build that torchvision cannot use
.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mpt needs Python 3.11, 3.12 or 3.13: name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/.installed  ## find a ticket in scikit-learn's digits and measure it, in about a minute
	$(BIN)/mpt-train recipe=demo hydra.run.dir=runs/demo
	@echo
	@echo "The same bits with each layer's mask shuffled, which should be near chance (10 %):"
	@$(BIN)/mpt-eval runs/demo/ticket.safetensors control=shuffled_mask

test: .venv/.installed  ## the quick tests
	$(BIN)/python -m pytest

test-all: .venv/.installed  ## all tests, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

test-slurm: .venv/.installed  ## tests on a real SLURM of two virtual nodes: as root, on Debian or Ubuntu
	@if [ "$$(id -u)" != 0 ]; then echo "skipped: SLURM's daemons need root"; \
	elif ! unshare --mount true 2>/dev/null; then echo "skipped: mount namespaces are not allowed here"; \
	elif ! tests/slurm/one-machine.sh install; then echo "skipped: SLURM cannot be installed here"; \
	else MPT_SLURM=1 $(BIN)/python -m pytest -n 4 --dist loadfile -m slow tests/multirun/test_slurm.py tests/slurm; fi

# other Pythons: what needs no torch, in a small environment of its own
LIGHT_TESTS := tests/run tests/analysis tests/commands/test_results.py tests/commands/test_spelling.py tests/test_files.py

test-light:  ## the tests of the rooms that need no torch: make test-light PYTHON=python3.13
	$(PYTHON) -m venv build/light
	build/light/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		hydra-core omegaconf numpy pandas matplotlib pyarrow pytest pytest-timeout pytest-xdist
	build/light/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	build/light/bin/python -m pytest -m "slow or not slow" --ignore=tests/run/test_apart.py $(LIGHT_TESTS)

lint: .venv/.installed  ## ruff format and check, mypy on src
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: .venv/.installed  ## dist/multiprize-*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

bench: .venv/.installed  ## speed as ratios, measured in turn in one run; writes benchmarks/results.json
	$(BIN)/python -m benchmarks.bench

bench-engine: .venv/.installed  ## compiled tickets against torch, onnxruntime, OpenVINO; writes benchmarks/ENGINE.md (25 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.engine

bench-results: .venv/.installed  ## benchmarks/RESULTS.md from the last make bench
	$(BIN)/python -m benchmarks.report benchmarks/results.json

bench-compare: .venv/.installed  ## compare the last make bench with an earlier one: make bench-compare BASE=earlier.json
	@test -n "$(BASE)" || { echo "name the earlier results: make bench-compare BASE=earlier.json"; exit 1; }
	$(BIN)/python -m benchmarks.report benchmarks/results.json --base $(BASE)

docs: .venv/.installed  ## docs/results.md from the schema of results, then the site in build/site/html
	$(BIN)/python -m docs.make
	$(BIN)/python -m docs.site

golden: .venv/.installed  ## write tests/golden again, after a change that alters a number (say so in CHANGELOG, Numbers)
	$(BIN)/python -m tests.golden.make

notebooks: .venv/.installed  ## execute the notebooks in place: they are committed with their outputs
	$(BIN)/python -m notebooks.make

DIGITS := results/digits/runs.csv

figures: .venv/.installed  ## the figures that README.md and docs/sweeps.md show, from the committed tables
	$(BIN)/mpt-plot results/digits/demo.csv --figure fig2 -o docs/figure.svg
	$(BIN)/mpt-plot results/mini/fig2.csv --figure fig2 -o docs/mini-fig2.svg
	$(BIN)/mpt-plot results/mini/fig5.csv --figure fig5 -o docs/mini-fig5.svg
	$(BIN)/mpt-plot $(DIGITS) --figure fig5 --where width=0.25 -o docs/digits-fig5.svg
	$(BIN)/python -m benchmarks.tickets draw results/speed/tickets.csv docs/speed.svg
	$(BIN)/mpt-theory figure csv=results/theory/promised.csv -o docs/promised.svg
	$(BIN)/mpt-theory figure table=results/theory/widths.csv -o docs/widths.svg
	$(BIN)/mpt-plot $(DIGITS) --figure fig3 --where model=conv4 --where prune=0,0.5,0.8,0.9 -o docs/digits-fig3.svg

clean:  ## remove .venv and everything built
	rm -rf .venv dist build
