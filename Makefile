# What people type. `make run` and `make test` are all a new user needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test lint unit bring openapi fmt clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## Bring what is missing, build, and start a fleet on this machine
	@scripts/bring run
	cargo build --locked -p lessor -p lessor-agent
	@exec $${CARGO_TARGET_DIR:-target}/debug/lessor dev

test: ## Everything that must hold: format, lints, every test
	@scripts/bring test
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	tests/openapi/prepare.sh
	cargo test --locked --workspace --doc --quiet
	cargo nextest run --locked --workspace

openapi: ## Write openapi/openapi.json anew from the code
	cargo run --locked --quiet -p lessor -- openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

fmt: ## Format the code
	cargo fmt --all

clean: ## Remove what was built
	cargo clean
