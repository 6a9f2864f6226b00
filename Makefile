# Every target first installs what it needs, once: `repro` what the pipeline runs with, the others the rest on top of it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIPELINE := $(VENV)/.ready-pipeline
READY := $(VENV)/.ready
RUNS_WITH := pipeline,openvino,engine
REST := sign,rollout,dask,s3,ssh,dev,docs
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install repro flow server server-stop test test-slow lint docs study sensitivity gpu-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(READY) ## create .venv with the tested versions of everything

$(PIPELINE): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: expected $(PYTHON), found none; install Python 3.11, or run make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call pip,install pipeline,-e '.[$(RUNS_WITH)]')

$(READY): $(PIPELINE) deploy/edge/pyproject.toml
	@$(call pip,install the rest,-e '.[$(REST)]' -e ./deploy/edge)

# Install the second argument and note the seconds under the name that is the first, for `rsd table --time`.
define pip
start=$$(date +%s); set -ex; $(BIN)/python -m pip install -c constraints.txt $(2); { set +x; } 2>/dev/null; \
	mkdir -p .state; seconds=$$(($$(date +%s) - start)); \
	echo "{\"stage\": \"$(1)\", \"start\": $$start, \"seconds\": $$seconds}" >> .state/times.jsonl; touch $@
endef

repro: $(PIPELINE) ## run the whole pipeline (dvc repro) and print the table
	@python -m pipelines.dvc_lock
	@dvc repro
	@rsd table

flow: $(READY) ## run the same graph as a Prefect flow, stages side by side
	@python -m pipelines.reproduce
	@rsd table

server: $(READY) ## start a Prefect server with every flow deployed, and a worker; restart those that died
	@python -m pipelines.server start

server-stop: $(READY) ## stop the server and the worker
	@python -m pipelines.server stop

test: $(READY) ## run the fast tests, under 10 minutes
	@python -m pytest -m "not slow"

test-slow: $(READY) ## run the slow tests, more of them than cores at once: many wait
	@python -m pytest -m slow -n 3

lint: $(READY) ## check the code with ruff (lint, format) and mypy
	@ruff check .
	@ruff format --check .
	@mypy

docs: $(READY) ## build the documentation site into out/site, without a warning
	@NO_MKDOCS_2_WARNING=1 python -m mkdocs build --quiet --strict
	@echo "out/site/index.html"

study: $(READY) ## compare RSD with its rivals, and few labels with many: docs/study.md, docs/few_labels.md; hours, resumable
	@python -m pipelines.sweep study
	@python -m pipelines.sweep why
	@python -m benchmarks.study
	@python -m benchmarks.study.labels
	@python -m benchmarks.study.share
	@python -m benchmarks.study.photographs
	@python -m benchmarks.study.photo_students --students ViT
	@python -m benchmarks.study.photo_students --students ViT --views 5
	@python -m benchmarks.study.photo_students --students ViT --epochs 80 --shares 1
	@python -m benchmarks.study.photo_students --students CNN ViT-128 --shares 1
	@python -m benchmarks.study.photo_students --students CNN ViT-128 --shares 0.1 --methods scratch rsd
	@python -m benchmarks.study.photo_students --students Lite0 --shares 1 --methods scratch rsd
	@python -m benchmarks.study.two_teachers

sensitivity: $(READY) ## measure what each setting of RSD changes: docs/sensitivity.md; hours, resumable
	@python -m pipelines.sweep sensitivity
	@python -m benchmarks.sensitivity

gpu-check: $(READY) ## run every CUDA and TensorRT path on a machine with a GPU, and write one record
	@python -m benchmarks.gpu_check

clean: ## remove results and unfinished training; .venv and DVC's cache stay
	rm -rf out .state
