# The commands of the house. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
PB := server/ribbon_server/pb/shard_pb2.py
NATIVE := server/ribbon_server/_native.abi3.so
PYTEST := $(BIN)/python -m pytest
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: serve test contract test-long setup proto native build build-release build-dist fmt lint check integration bench bench-stall bench-memory bench-prefix bench-overload bench-queue bench-idle bench-loading bench-shards bench-grammar bench-router gpu-check demo-train demo-eval parity docs wheel docker clean help

serve: setup proto native build-release ## Serve the bundled model on http://127.0.0.1:8080 (PORT=…, MODEL_ID=… and every other setting pass through)
	PORT=$${PORT:-8080} exec target/release/ribbon-launcher

test: setup proto native build test-rust test-python integration ## Set up everything and run the tests (at most 10 minutes warm)

.PHONY: test-rust test-python
test-rust:
	cargo test --workspace --quiet

test-python: setup proto native
	$(PYTEST) server/tests -q -m "not slow and not gpu"

integration: setup proto native build ## Tests through the launcher, real processes and real sockets
	$(PYTEST) integration-tests -q -m "not slow and not gpu and not clients"

.PHONY: test-clients
test-clients: setup proto native build ## Clients that other people wrote, each in an environment of its own (.clients/): a table, and a JSON line
	$(BIN)/python integration-tests/clients/run.py $(ARGS)

.PHONY: client-pins
client-pins: setup ## Pin what those clients need anew, from integration-tests/clients/pins/*.in and node/package.json
	for pins in integration-tests/clients/pins/*.in; do \
		$(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 $$pins -o $${pins%.in}.txt; done
	cd integration-tests/clients/node && npm install --package-lock-only --ignore-scripts

contract: setup proto native build ## Every promise of the HTTP contract, rule by rule, and whether a server that is always content would keep it
	$(BIN)/python integration-tests/http/run_contract.py

test-long: setup proto native build ## The long tests: soak, overload, full simulation, full parity (at most 35 minutes)
	cargo test --workspace --quiet --test simulation -- --ignored
	cargo test --workspace --quiet --lib -- --ignored a_million_bodies
	$(PYTEST) server/tests -q -m "slow and not gpu"
	$(PYTEST) integration-tests -q -m "slow and not gpu"

setup: $(VENV)/.ready ## Python environment with pinned packages
$(VENV)/.ready: constraints.txt pyproject.toml
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/uv --version 2>/dev/null | grep -q "$(UV_VERSION)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -r constraints.txt
	mkdir -p dist/ribbon_server.data
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

proto: $(PB) ## Python stubs of proto/ (the Rust ones are made by cargo)
$(PB): proto/ribbon/shard/v1/shard.proto server/build_proto.py $(VENV)/.ready
	$(BIN)/python server/build_proto.py

native: setup ## The native module, always optimized
	cargo build --release --quiet -p ribbon-native
	cmp -s target/release/lib_native.so $(NATIVE) || { cp target/release/lib_native.so $(NATIVE).new && mv $(NATIVE).new $(NATIVE); }

# The whole workspace with its tests: the same set of features as `cargo test --workspace`, so nothing is compiled twice.
build: ## Launcher and router, for the tests
	cargo build --workspace --all-targets --quiet

build-release: ## Launcher and router, optimized
	cargo build --release -p ribbon-launcher -p ribbon-router

build-dist: ## Launcher and router as they are shipped: takes minutes
	cargo build --profile dist -p ribbon-launcher -p ribbon-router

fmt: setup ## Format everything
	cargo fmt --all
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

lint: setup proto ## All linters and contracts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	cd server && ../$(BIN)/mypy --config-file ../pyproject.toml
	cd server && ../$(BIN)/lint-imports --config lint/importlinter.ini

check: lint test ## Lint and test

bench: setup proto native build-release ## Ribbon and transformers on the 120 M model in one run; writes benchmarks/results/
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-stall: setup proto native build-release ## A long prompt against 16 running streams
	$(BIN)/python benchmarks/stall.py $(ARGS)

bench-memory: setup proto native build-release ## KV waste at 256 live requests on the bundled model, beside other allocators (under 8 minutes)
	$(BIN)/python benchmarks/memory.py $(ARGS)

bench-prefix: setup proto native build-release ## Shared prefixes and chats with the cache on and off; the cost of showing a prefix
	cargo bench --quiet -p ribbon-scheduler --bench step -- admission_with_a_hit
	$(BIN)/python benchmarks/prefix.py $(ARGS)

bench-overload: setup proto native build-release ## Five minutes of clients that may need twice the KV memory, against what fits
	$(BIN)/python benchmarks/overload.py $(ARGS)

bench-queue: setup proto native build-release ## How fast a full house says no, and a short request behind a flood of long ones
	$(BIN)/python benchmarks/queueing.py $(ARGS)

bench-idle: setup proto native build-release ## The shard's idle gap between steps on the 120 M model at 32 clients (part of `make bench` too)
	$(BIN)/python benchmarks/bench.py --only ribbon --concurrency 32 $(ARGS)

bench-loading: setup native ## Loading a 2 GB random Llama: seconds, peak of memory, ratio to a plain read of the files
	$(BIN)/python benchmarks/loading.py $(ARGS)

bench-shards: setup proto native build-release ## The bundled model on one shard, on two, and on two stages of a pipeline
	$(BIN)/python benchmarks/shards.py $(ARGS)

bench-grammar: setup native ## A mask with 128 k tokens; 32 constrained sequences beside 32 free ones on the 120 M model
	PYTHONPATH=server:benchmarks $(BIN)/python -m kernels.grammar $(ARGS)

bench-router: setup build-dist ## The router alone, as shipped, before a shard that answers at once: CPU per token and request, first token, memory
	cargo build --release --quiet -p ribbon-shards --example instant_shard
	$(BIN)/python benchmarks/router.py $(ARGS)

# No setup: a bare machine with a device has Python, torch and the carried native module, and no network.
gpu-check: ## On a machine with a CUDA device: is attention right, what do pages cost, how near is the roofline (docs/gpu-check.md)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-4} $(PYTHON) benchmarks/gpu/check.py $(ARGS)

demo-train: setup ## Train the bundled model from scratch (about 100 minutes)
	$(BIN)/python demo-model/train.py $(ARGS)

demo-eval: setup ## Accuracy of the bundled model, per skill, on held-out items
	$(BIN)/python demo-model/evaluate.py $(ARGS)

parity: setup native ## Every family against its reference: the table family × check, and a JSON line (WORDS="part of a name …" picks)
	$(BIN)/python server/tests/parity/run.py $(WORDS)

docs: setup build ## Generated reference pages; leaves no diff when they are current
	target/debug/ribbon-launcher print-flags > docs/reference/flags.md
	$(BIN)/python server/models_doc.py > docs/reference/models.md

wheel: setup proto build-dist ## One wheel: package, native module, launcher and router
	mkdir -p dist/ribbon_server.data/scripts
	cp target/dist/ribbon-launcher target/dist/ribbon-router dist/ribbon_server.data/scripts/
	trap 'rm -rf server/ribbon_server/demo_model' EXIT; \
	rm -rf server/ribbon_server/demo_model; \
	cp -r demo-model/weights server/ribbon_server/demo_model; \
	VIRTUAL_ENV=$(VENV) $(BIN)/maturin build --release --out dist

docker: ## The image
	docker build -t ribbon .

clean: ## Remove everything that was built
	rm -rf target dist $(VENV) .clients server/ribbon_server/pb $(NATIVE)

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18
