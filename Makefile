# hutch: `make demo` boots a Debian kernel inside a Go process and runs commands in it; `make test` runs every test.
# Both fetch and build what they need into the user's cache, as an ordinary user. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED := 0
GO     ?= go
BIN    := $(CURDIR)/bin
LAB    := $(BIN)/kvmlab
# KERNEL is what `make demo` boots: a package name, "own", "host", or a path.
KERNEL ?= linux-image-cloud-amd64
# FUZZTIME is how long each fuzz target runs in `make fuzz` (and, shorter, in `make test`).
FUZZTIME ?= 60s

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

# Not with -trimpath: by the path of their source the programs find it, to build the guest's image and the lab's, wherever they are started.
build: ## build the programs into bin/
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/ ./cmd/hutch ./cmd/kvmlab ./examples/demo

demo: build ## set everything up, boot KERNEL in-process and run commands in it
	@$(BIN)/demo -prepare -kernel '$(KERNEL)'
	@$(LAB) -v -- $(BIN)/demo -kernel '$(KERNEL)'

test: ## set everything up and run every test
	@./testdata/run-tests

kernel: build ## build our own kernel into the cache (some minutes the first time)
	@$(BIN)/hutch kernel build

lint: ## vet, format and import rules (golangci-lint when it is installed)
	@test -z "$$(gofmt -l .)" || { echo "gofmt wants to change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	GOOS=darwin $(GO) build ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else echo "golangci-lint is not installed: ran gofmt and vet only"; fi

race: ## unit and protocol tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race ./virtio/... ./devices/... ./channel/... ./agent/... ./sandbox/... ./internal/...

fuzz: ## run every fuzz target for FUZZTIME
	@./testdata/run-fuzz $(FUZZTIME)

bench: build ## benchmarks: native ones here, guest ones in the lab
	$(GO) test -run '^$$' -bench . -benchtime 1s ./virtio/... ./devices/... ./channel/... ./agent/... ./sandbox/...
	$(BIN)/hutch kernel build
	HUTCH_INITRAMFS=$$($(BIN)/hutch image build --print-path) HUTCH_KERNEL=own HUTCH_REQUIRE_KVM=1 \
		$(GO) test -run '^$$' -bench . -benchtime 1s -timeout 30m -exec '$(LAB) --' ./sandbox

abi: ## regenerate kvm/testdata/kvm_abi.tsv from the system's <linux/kvm.h>
	@d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; cc -o "$$d/abi" kvm/testdata/abi.c && "$$d/abi" >kvm/testdata/kvm_abi.tsv
	git diff --stat -- kvm/testdata/kvm_abi.tsv

docs: ## regenerate the command line reference in docs/cli
	rm -rf docs/cli
	$(GO) run ./cmd/hutch docs --format markdown docs/cli

clean: ## remove bin/ (the cache stays)
	rm -rf $(BIN)

.PHONY: help build demo test kernel lint race fuzz bench abi docs clean
