# Each target is what a person would type. `make` alone lists them.
#
# PYTHON=python3.12   another Python for the set-up and the tests
# CARGO_FLAGS=--locked and the like go to every cargo command

CARGO ?= cargo
PYTHON ?= python3
CARGO_FLAGS ?=

# A rustup that was installed a minute ago is not yet on this shell's path.
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO PYTHON

TARGET := $(or $(CARGO_TARGET_DIR),target)
TESSERA := $(TARGET)/release/tessera
VIT_BASE := models-extra/vit-base/1/model.onnx
# The servers that Tessera is compared with.
PEERS ?= fastapi fastapi-simd cpr litserve mosec ray

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build serve test test-rust test-clients test-models lint fmt proto proto-check doc deny bench bench-full bench-peers bench-pillow-simd bench-stages bench-smoke image image-check image-cuda \
        runtime tools venv clean clean-runtime

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: tools runtime ## ONNX Runtime and target/release/tessera
	@echo "Building tessera (the first time takes some minutes) ..."
	$(CARGO) build --release $(CARGO_FLAGS)

serve: build ## build, then serve the models in models/ on port 8080
	$(TESSERA) serve

test: test-rust test-clients test-models ## every test, with all the set-up they need

test-rust: tools runtime ## the Rust tests alone
	@echo "Building and running the Rust tests (the first time takes some minutes) ..."
	$(CARGO) test $(CARGO_FLAGS)

test-clients: tools runtime ## Google's client library, KServe's and Triton's, against the server that the Rust tests ran
	@$(PYTHON) scripts/python_environment.py .venv-clients tests/clients/requirements.txt
	$(CARGO) test --no-run $(CARGO_FLAGS)
	.venv-clients/bin/python tests/clients/predict.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/predict_grpc.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/management.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/artifacts.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/tls.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/artifact_credentials.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/slow_deployment.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/dedicated.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/permissions.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/gcloud.py $(TARGET)/debug/tessera
	.venv-clients/bin/python tests/clients/verbs.py $(TARGET)/debug/tessera
	@$(PYTHON) scripts/python_environment.py .venv-neighbours tests/clients/neighbours-requirements.txt
	.venv-neighbours/bin/python tests/clients/neighbours.py $(TARGET)/debug/tessera

test-models: venv tools runtime $(VIT_BASE) ## the models' logits against an independent implementation, and lighter models' gate
	.venv/bin/python models/check_vit.py models/fashion-vit/1
	.venv/bin/python models/check_vit.py $(dir $(VIT_BASE)) --pictures 1
	$(CARGO) build $(CARGO_FLAGS)
	.venv/bin/python models/check_lighter.py models/fashion-vit/1 $(TARGET)/debug/tessera

# A ViT-B/16 with seeded random weights, 346 MB: for this check and for measuring speed.
$(VIT_BASE): models/make_vit_base.py models/vit.py models/huggingface.py | venv
	.venv/bin/python models/make_vit_base.py $(dir $(VIT_BASE))

lint: ## format, clippy, documentation, dependencies: what CI asks before the tests
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets $(CARGO_FLAGS) -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features $(CARGO_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps $(CARGO_FLAGS)
	$(MAKE) deny proto-check

fmt: ## format the sources
	$(CARGO) fmt

deny: ## licences, sources and duplicates of the dependencies
	$(PYTHON) scripts/cargo_deny.py check bans licenses sources

proto: ## src/protocol/generated from proto/
	$(CARGO) run --manifest-path tools/proto/Cargo.toml --target-dir $(TARGET)/tools $(CARGO_FLAGS)

proto-check: ## that src/protocol/generated is what proto/ says
	$(CARGO) run --manifest-path tools/proto/Cargo.toml --target-dir $(TARGET)/tools $(CARGO_FLAGS) -- --check

doc: ## the library's documentation, in target/doc
	$(CARGO) doc --no-deps $(CARGO_FLAGS)

bench: build bench-peers bench-pillow-simd $(VIT_BASE) ## Tessera beside other servers, in ten minutes once it is set up: docs/benchmarks.md
	.venv/bin/python benches/compare/compare.py --tessera $(TESSERA)

bench-full: build bench-peers bench-pillow-simd $(VIT_BASE) ## the same with more loads, in 40 minutes
	.venv/bin/python benches/compare/compare.py --tessera $(TESSERA) --full

bench-peers: venv ## the other servers' Python environments, into .venv-bench (2 GB)
	@for peer in $(PEERS); do \
	    $(PYTHON) scripts/python_environment.py .venv-bench/$$peer benches/compare/requirements/$$peer.txt || exit 1; \
	done

# For one of them: a resize that is five times faster, where it can be built.
bench-pillow-simd: bench-peers
	@$(PYTHON) benches/compare/pillow_simd.py .venv-bench/fastapi-simd

bench-stages: runtime ## the benchmarks of every stage
	$(CARGO) bench --bench '*' $(CARGO_FLAGS)

bench-smoke: build venv ## each benchmark once, and a second of Tessera beside FastAPI, to see that they run
	$(CARGO) test --bench '*' $(CARGO_FLAGS)
	@$(MAKE) --no-print-directory bench-peers PEERS=fastapi
	.venv/bin/python benches/compare/compare.py --tessera $(TESSERA) --smoke --peers fastapi
	.venv/bin/python benches/gpu/run.py --tessera $(TESSERA) --provider cpu --quick

image: ## the container image tessera:latest
	scripts/build_image.sh cpu tessera:latest

image-check: ## start tessera:latest and hold it to Vertex AI's container contract
	$(PYTHON) tests/image.py tessera:latest

image-cuda: ## the container image tessera:cuda, for NVIDIA GPUs
	scripts/build_image.sh cuda tessera:cuda

runtime: ## ONNX Runtime's library, into .onnxruntime
	@$(PYTHON) scripts/fetch_onnxruntime.py

venv: ## the Python environment of the tests, into .venv
	@$(PYTHON) scripts/python_environment.py .venv tests/requirements.txt

tools:
	@scripts/check_tools.sh

clean: ## remove what cargo built
	$(CARGO) clean

clean-runtime: ## remove ONNX Runtime and the Python environments
	rm -rf .onnxruntime .venv .venv-clients .venv-neighbours .venv-bench
