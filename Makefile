# `make demo` and `make test` need only Python 3.11, git, make and gcc.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs_installed
DEMO := runs/demo
STUDENT := --student-layers 2 --max-examples 1500 --steps 80 --decision-interval 10 --lr 1e-3

.PHONY: install demo policies test golden lint types format bench wheel docs-install docs docs-check clean
install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt pip setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	touch $@

demo: export OMP_NUM_THREADS := 1
demo: install
	$(BIN)/ackd finetune --task polarity --epochs 8 --lr 1e-3 --batch-size 64 --output $(DEMO)/teacher --overwrite
	$(BIN)/ackd train --task polarity --teacher $(DEMO)/teacher $(STUDENT) --episodes 64 --students 16 \
		--output $(DEMO)/train --overwrite
	$(BIN)/ackd evaluate --tasks polarity --teachers $(DEMO)/teacher $(STUDENT) --seeds 5 --policies labels all scheduled \
		hidden+attention,labels:0.25,then,all,labels:0.25 agent=$(DEMO)/train/policy default \
		--output $(DEMO)/evaluate --overwrite
	$(BIN)/ackd report $(DEMO)/train > /dev/null
	$(BIN)/ackd report $(DEMO)/evaluate > /dev/null
	@echo "\nPictures of what the agent learned:   $(DEMO)/train/report.html"
	@echo "Pictures of policies side by side:    $(DEMO)/evaluate/report.html"
	@echo "The agent's policy, and its weights:  $(DEMO)/train/policy/README.md"
	@echo "Every curve and every phase:          $(BIN)/tensorboard --logdir $(DEMO)"

# The policy that comes with the package: learned over settings of the generated tasks that differ.
policies: export OMP_NUM_THREADS := 1
policies: install
	$(BIN)/python benchmarks/varied.py teachers build/teachers
	$(BIN)/ackd train --instances varied-v1 --teachers build/teachers --agent probe-rule --episodes 768 --students 16 \
		--policy-name default --output build/policies/default --resume
	rm -rf agents/policies/default && mkdir -p agents/policies && cp -r build/policies/default/policy agents/policies/default

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

golden: install
	$(BIN)/python -m tests.golden.runs check

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# mypy reads folders, not package_dir: a tree of links shows it envs/ and agents/ where they are imported from.
types: install
	rm -rf build/types && mkdir -p build/types/ackd
	ln -s $(CURDIR)/ackd/* $(CURDIR)/envs $(CURDIR)/agents build/types/ackd/
	ln -s $(CURDIR)/tests $(CURDIR)/benchmarks $(CURDIR)/docs build/types/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

format: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/toy.py
	$(BIN)/python benchmarks/step_speed.py

docs-install: $(DOCS_INSTALLED)

$(DOCS_INSTALLED): $(INSTALLED)
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	touch $@

docs: docs-install
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html --conf-dir docs . build/site
	@echo "build/site/index.html"

# What README and docs show: commands are parsed, cheap ones are run, Python runs on small models, links lead somewhere.
docs-check: install
	$(BIN)/python -m pytest tests/test_documented_commands.py tests/test_python_docs.py tests/test_papers.py \
		tests/test_readme.py tests/test_reference.py tests/test_workflows.py tests/cli/test_documented_runs.py \
		tests/experiments/test_newcomers.py

wheel: install
	$(BIN)/python -m build --no-isolation --wheel --outdir dist .

clean:
	rm -rf build dist *.egg-info
