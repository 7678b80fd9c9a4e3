# The one entry for people and CI. `make help` lists the targets.
.PHONY: help demo deps test unit schedules lint fmt fuzz bench bench-refresh instructions prove safeguards library
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: ## Show the refresh race, and how it does not happen here
	cargo run --release -- demo

deps: ## Install what the tests need and is missing (Debian packages, cargo-nextest, npm packages)
	scripts/deps.sh

test: deps lint ## Install what is missing, then pass everything
	cargo nextest run --workspace
	TOKENWARD_HTTP=library cargo nextest run --profile library --workspace
	scripts/schedules.sh 100
	python3 bench/instructions.py --engine --check

library: deps ## All tests of the server, HTTP/1.1 read and written by the HTTP library (--http library)
	TOKENWARD_HTTP=library cargo nextest run -p tokenward-server

unit: ## The tests of the engine alone: seconds
	cargo nextest run -p tokenward

schedules: ## The flight's code under SCHEDULES=n schedules a scenario
	scripts/schedules.sh $(or $(SCHEDULES),2000)

lint: ## Format, clippy, documentation, the fuzz targets, dependency bans
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet
	cargo check --quiet --manifest-path fuzz/Cargo.toml --all-targets --target-dir target
	scripts/bans.sh

fmt: ## Format everything
	cargo fmt --all

SEEDS ?= 200
KILLS ?= 500
prove: ## Look harder for what breaks the promise (SEEDS=n KILLS=n): model, schedules, simulation, real processes
	scripts/prove.sh $(SEEDS) $(KILLS)

safeguards: ## Take each safeguard of docs/failure-modes.md away and see its tests fail (ROW=n, CRATE=core: only those)
	scripts/safeguards.py $(if $(ROW),--row $(ROW)) $(if $(CRATE),--crate $(CRATE))

fuzz: ## Fuzz every parser of foreign bytes for SECONDS each
	fuzz/run $(or $(SECONDS),60)

bench: ## Requests per second beside nginx, HAProxy, Envoy, Caddy and a bare hyper proxy
	scripts/deps.sh bench
	python3 bench/gateway.py

bench-refresh: deps ## What refreshing costs: a herd, a minute, a million grants (SQLite, PostgreSQL), a fresh token
	python3 bench/refresh.py

instructions: deps ## Count what the hot operations and a proxied request cost; fails if one has become dearer
	python3 bench/instructions.py --check
