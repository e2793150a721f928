# Everything a newcomer needs: `make run`, `make test`. Nothing here is needed to use mqasync as a package.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test faults soak bench docs pictures site lint lock dist clean

run: .venv/run ## The CTH pipeline over its sample feed, on SQLite (or $MQASYNC_BROKER), until all is done
	MQASYNC_LOG=human $(BIN)/mqasync run services.cth --until-idle

# Most tests wait most of the time: two cores are enough for four processes
test: .venv/ready .venv/site/ready ## The whole suite; installs (Debian, root) and starts the brokers that it needs
	$(BIN)/python -m pytest -n 4 --dist worksteal

faults: .venv/ready ## The faults with 20,000 messages each; writes docs/reliability.md
	MQASYNC_FAULT_MESSAGES=20000 MQASYNC_RELIABILITY=write $(BIN)/python -m pytest tests/faults

SEED ?= $(shell date +%s)
MINUTES ?= 2
soak: .venv/ready ## Random faults for some minutes: make soak SEED=7 MINUTES=10
	$(BIN)/python -m tests.faults.soak $(SEED) $(MINUTES)

bench: .venv/ready ## Figures as ratios against clients written by hand and other frameworks; writes docs/performance.md
	$(BIN)/python -m bench --write

docs: .venv/ready ## docs/architecture.md, brokers.md, cli.md and configuration.md, from the code itself
	$(BIN)/python -m tests.test_architecture_document
	$(BIN)/python -m tests.test_brokers_document
	$(BIN)/python -m tests.test_reference_documents

pictures: .venv/ready ## docs/pictures/, from the running product: the live page in a browser, and a terminal
	$(BIN)/python -m tests.pictures

SITE := site
site: .venv/site/ready ## README, docs/ and the Python API as a website in site/; broken links are errors
	NO_MKDOCS_2_WARNING=1 .venv/site/bin/mkdocs build --site-dir $(SITE)

lint: .venv/ready ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

LOCK := $(BIN)/lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
	--no-emit-find-links --no-header

# The image can use every broker, serve metrics, send traces and read feeds
IMAGE := $(foreach name,redis kafka sqs activemq nats postgres http telemetry cth,--extra $(name))

lock: ## Make the lock files anew from pyproject.toml and requirements-site.in
	$(PYTHON) -m venv $(BIN)/lock
	$(BIN)/lock/bin/pip install --quiet --disable-pip-version-check pip-tools
	$(LOCK) --upgrade --extra dev --output-file requirements-dev.lock pyproject.toml
	$(LOCK) --upgrade $(IMAGE) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(LOCK) --upgrade --constraint requirements-dev.lock --output-file requirements-site.lock requirements-site.in

dist: .venv/ready ## The sdist and the wheel in dist/: as PyPI would take them, tried in empty environments
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m pytest tests/test_package.py

PIP := $(BIN)/pip --quiet --disable-pip-version-check

# What it takes to use mqasync, with exactly the versions of requirements.lock
.venv/run: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-deps --editable .
	touch $@

# And to develop it, with those of requirements-dev.lock
.venv/ready: .venv/run requirements-dev.lock
	$(PIP) install --require-hashes --requirement requirements-dev.lock
	touch $@

# What it takes to build the site, apart from all else
.venv/site/ready: requirements-site.lock
	$(PYTHON) -m venv .venv/site
	.venv/site/bin/pip --quiet --disable-pip-version-check install --require-hashes --requirement requirements-site.lock
	touch $@

clean:
	rm -rf .venv site
