# What people type. `make run` and `make test` are all a new user needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test bench bench-check fuzz schemathesis supply sbom openapi fmt clean

# What the tests need is linted as it is compiled: clippy-driver is the compiler with lints, and CLIPPY_ARGS
# is how `cargo clippy -- -D warnings` tells it the rest. `cargo clippy` would compile all dependencies once more.
LINTED := RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## Bring what is missing, build, and start a fleet on this machine
	@scripts/bring run
	cargo build --locked -p lessor -p lessor-agent
	@exec $${CARGO_TARGET_DIR:-target}/debug/lessor dev

test: ## Everything that must hold: format, lints, every test
	@scripts/bring test
	cargo fmt --all --check
	SUPPLY_OFFLINE=1 scripts/supply
	tests/openapi/prepare.sh
	$(LINTED) cargo build --locked --workspace --all-targets
	$(LINTED) cargo test --locked --workspace --doc --quiet
	$(LINTED) cargo nextest run --locked --workspace

bench: ## Measure beside PostgreSQL and beside other queues; SCENARIO=claims for one, ARGS for options
	@scripts/bring test
	cargo build --locked --release -p lessor -p lessor-bench
	$${CARGO_TARGET_DIR:-target}/release/lessor-bench --service $${CARGO_TARGET_DIR:-target}/release/lessor \
		--peers $${CARGO_TARGET_DIR:-target}/bench-peers --json $${CARGO_TARGET_DIR:-target}/bench.json $(SCENARIO) $(ARGS)

bench-check: ## See that each scenario of the bench works, for a second, without optimisation; SCENARIO=claims for one
	@scripts/bring test
	cargo build --locked --workspace --all-targets
	cargo nextest run --locked --workspace -E 'binary_id(lessor-bench::quick) and test(/^$(or $(SCENARIO),.*)$$/)'

fuzz: ## Fuzz each parser for longer: TIME=60 seconds, TARGET=cursors for one of them
	@scripts/bring test
	LESSOR_FUZZ_SECONDS=$(or $(TIME),60) cargo nextest run --locked --workspace --lib --bins \
		-E 'test(/fuzz_$(TARGET)/)' --no-fail-fast

schemathesis: ## Hold service and document against each other for longer; TIME=600 seconds
	@scripts/bring test
	tests/openapi/prepare.sh
	LESSOR_SCHEMATHESIS_SECONDS=$(or $(TIME),600) cargo nextest run --locked -p lessor -E 'test(/^schemathesis::/)'

supply: ## Licences, duplicates, sources and advisories by cargo-deny, which is installed if it is missing
	scripts/supply

sbom: ## Write a bill of materials (CycloneDX) to target/lessor.cdx.json
	scripts/sbom $${CARGO_TARGET_DIR:-target}/lessor.cdx.json

openapi: ## Write openapi/openapi.json anew from the code
	cargo run --locked --quiet -p lessor -- openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

fmt: ## Format the code
	cargo fmt --all

clean: ## Remove what was built
	cargo clean
