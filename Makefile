# make study   run the four training notebooks and the results notebook; look at $(OUT)/ afterwards
# make report  write report.pdf from the records in data/; REPORT=my.pdf DATA=runs/quick for others
# make results execute the committed notebooks on data/, rebuild report.pdf and README's headline; commit the outcome
# make bench   how fast training is, as ratios; on an idle machine, with DATA_ROOT=folder of CIFAR-10
# make test    run the tests, but for the slow ones; ten minutes on two cores
# make test-slow     run the slow ones: every command of README and --help, notebooks, Ray, processes that are killed
# make test-lowest   run them with the lowest versions that pyproject.toml admits: make test-lowest PYTHON=python3.10
# make lint    check style
#
# The study on CIFAR-10, smaller and on two cores:
#   make study DATASET=cifar10 DATA_ROOT=datasets EPOCHS=5 SEEDS="0 1" SMALL="8 32" LARGE="128 512" \
#              WORKERS=2 OUT=runs/cifar10-small
# With other ways to train, each in a folder of its own: OPTIMIZER, MOMENTUM, WEIGHT_DECAY, AUGMENT, DECAY, MODEL, as in
#   make study OPTIMIZER=nesterov WEIGHT_DECAY=0.0005 AUGMENT=flip DECAY=cosine OUT=runs/cosine
# Omitted settings default to those of the study, for digits to a study that takes minutes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

DATASET ?= digits
DATA_ROOT ?=
ifeq ($(DATASET),digits)
OUT ?= runs/quick
WIDTH ?= $(if $(MODEL),,0.125)
EPOCHS ?= 8
BASE_LR ?= 0.004
DECAY ?= linear
SEEDS ?= 0 1
SMALL ?= 8 16 32
LARGE ?= 64 128 256
WORKERS ?= 2
else
OUT ?= runs/$(DATASET)
endif

.PHONY: study report results bench test test-slow test-lowest lint clean

study: $(VENV)/.study
	@$(BIN)/python -m batchscale study --out "$(OUT)" --dataset "$(DATASET)" \
	  $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") $(if $(TRAIN_SIZE),--train-size $(TRAIN_SIZE)) \
	  $(if $(WIDTH),--width $(WIDTH)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(WARMUP),--warmup-epochs $(WARMUP)) \
	  $(if $(MODEL),--model "$(MODEL)") $(if $(OPTIMIZER),--optimizer "$(OPTIMIZER)") \
	  $(if $(MOMENTUM),--momentum $(MOMENTUM)) $(if $(WEIGHT_DECAY),--weight-decay $(WEIGHT_DECAY)) \
	  $(if $(AUGMENT),--augment $(AUGMENT)) $(if $(DECAY),--decay $(DECAY)) \
	  $(if $(BASE_LR),--base-lr $(BASE_LR)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(WORKERS),--workers $(WORKERS)) \
	  $(if $(SMALL),--small $(SMALL)) $(if $(LARGE),--large $(LARGE))

DATA ?= data
REPORT ?= report.pdf

report: $(VENV)/.report
	@$(BIN)/python -m report.build "$(DATA)" "$(REPORT)"

results: $(VENV)/.study $(VENV)/.report
	@$(BIN)/python -m report.committed

bench: $(VENV)/.study  # on an idle machine; benchmarks/README.md has the full one
	@$(BIN)/python benchmarks/speed.py $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)")

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# pyproject.toml is the one place that names versions: "torch>=2.4" there is torch==2.4 here. Old libraries call what
# newer ones have deprecated, and Ray 2.40 leaves processes running.
LOWEST := .venv-lowest
test-lowest:
	$(PYTHON) -m venv "$(LOWEST)"
	$(PYTHON) -c "import re; print(*('=='.join(each) for each in re.findall('\"([a-z-]+)>=([0-9.]+)\"', \
	  open('pyproject.toml').read()) if each[0] != 'setuptools'), sep='\n')" > "$(LOWEST)/constraints.txt"
	$(LOWEST)/bin/python -m pip install --quiet --constraint "$(LOWEST)/constraints.txt" --editable ".[tests]"
	$(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -W default::DeprecationWarning \
	  -W default::ResourceWarning

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  # what was installed and cached; records and images stay
	rm -rf $(VENV) $(LOWEST) build *.egg-info .pytest_cache .hypothesis .ruff_cache

# One environment; a stamp for each set of packages in it.
$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed: make PYTHON=python3.12')"
	@echo "Setting up $(VENV), once"
	$(PYTHON) -m venv "$(VENV)"

$(VENV)/.study: pyproject.toml | $(BIN)/python
	@echo "Installing PyTorch, JupyterLab and what they need: up to 3 GB to download and 6 GB on disk, most of it"
	@echo "NVIDIA's libraries for PyTorch on Linux. On a fast connection that takes three minutes."
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[notebooks]"
	@touch "$@"

$(VENV)/.report: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[report]"
	@touch "$@"

$(VENV)/.tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[tests]"
	@touch "$@"

$(VENV)/.tools: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[tools]"
	@touch "$@"
