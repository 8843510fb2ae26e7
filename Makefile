# Every command of the repository. CONTRIBUTING.md says when to use which.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

FUZZTIME ?= 30s
KERNEL ?=
# Whether `make test` may install what tests use, as root on Debian.
INSTALL ?= yes

# The compiler that made the committed BPF objects: another one makes others.
CLANG_MAJOR := 14
CLANG := $(or $(shell command -v clang-$(CLANG_MAJOR)),clang)
CLANG_FOUND = $(shell $(CLANG) -dumpversion 2>/dev/null | cut -d. -f1)

# Tools are built once for each state of their module, outside the tree, and never installed.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/netexporter/tools
tools = $(TOOLS)/$(1)-$(shell find internal/tools/$(1) -type f | sort | xargs cat | sha256sum | cut -c1-16)
CODEGEN := $(call tools,codegen)
LINT := $(call tools,lint)
OCB := $(call tools,ocb)
IMAGE_TOOL := $(call tools,image)
DEPLOY := $(call tools,deploy)
KUBERNETES := $(call tools,kubernetes)
KWOK := $(call tools,kwok)
ETCD := $(call tools,etcd)
LOKI := $(call tools,loki)
PACKAGING := $(call tools,packaging)
KAFKA := $(call tools,kafka)

# No C compiler, no paths of the machine in the binary, and no stamp of git, which refuses to
# answer root about a clone that belongs to somebody else.
BUILD_FLAGS = -trimpath -buildvcs=false -ldflags='-s -w $(LDFLAGS)'

# Steps are announced on standard error: standard output of `make run` is the events' alone.
say = echo '==> $(1)' >&2

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##### Build and run

.PHONY: build
build: ## Build bin/netexporter (the collector, as ocb assembled it) and bin/inspector
	@$(call say,build bin/netexporter)
	@CGO_ENABLED=0 go build -C distribution $(BUILD_FLAGS) -o ../bin/netexporter .
	@$(call say,build bin/inspector)
	@CGO_ENABLED=0 go build $(BUILD_FLAGS) -o bin/inspector ./cmd/inspector

.PHONY: run
run: build ## Build, then run the collector in the foreground (root): metrics on 127.0.0.1:9102, events on stdout
	@exec bin/netexporter --config distribution/config/standalone.yaml

# Its version is that of builder-config.yaml.
IMAGE ?= ghcr.io/netexporter/netexporter:$(shell sed -n 's/^  version: //p' builder-config.yaml)
IMAGE_ARCHS ?= amd64 arm64
.PHONY: image
image: $(IMAGE_TOOL) ## Build bin/image.tar, the container image as an OCI archive, without a container engine
	@for arch in $(IMAGE_ARCHS); do \
		echo "==> build the programs for linux/$$arch" >&2; \
		export CGO_ENABLED=0 GOOS=linux GOARCH=$$arch; \
		go build -C distribution $(BUILD_FLAGS) -o ../bin/image/$$arch/netexporter .; \
		go build $(BUILD_FLAGS) -o bin/image/$$arch/inspector ./cmd/inspector; \
	done
	@$(call say,build bin/image.tar: $(IMAGE))
	@'$(IMAGE_TOOL)'/image -tag $(IMAGE) -run '/bin/netexporter --config /etc/netexporter/config.yaml' \
		-config distribution/config/standalone.yaml -o bin/image.tar \
		$(foreach arch,$(IMAGE_ARCHS),$(arch)=bin/image/$(arch))

##### Packages

# The version is the distribution's. Files have the time of the commit, so that the same source makes the same packages.
VERSION = $(shell sed -n 's/^  version: //p' builder-config.yaml)
ARCH ?= $(shell go env GOARCH)
ARCHES := amd64 arm64
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH

.PHONY: package
package: $(PACKAGING) ## Make .deb and .rpm for ARCH (this machine's) in dist
	@$(call say,build for $(ARCH))
	@mkdir -p dist/bin/$(ARCH)
	@rm -f dist/SHA256SUMS
	@CGO_ENABLED=0 GOARCH=$(ARCH) go build -C distribution $(BUILD_FLAGS) -o ../dist/bin/$(ARCH)/netexporter .
	@CGO_ENABLED=0 GOARCH=$(ARCH) go build $(BUILD_FLAGS) -o dist/bin/$(ARCH)/inspector ./cmd/inspector
	@for format in deb rpm; do \
		$(call say,package for $(ARCH)); \
		VERSION='$(VERSION)' ARCH='$(ARCH)' BIN='dist/bin/$(ARCH)' \
			'$(PACKAGING)'/nfpm package --config deploy/packaging/nfpm.yaml --packager $$format --target dist >/dev/null; \
	done

# The SBOM is read out of the binaries: what is really in them.
.PHONY: release
release: $(PACKAGING) ## Make packages for all architectures in dist, with an SBOM of each program and checksums of all
	@rm -rf dist
	@$(foreach arch,$(ARCHES),$(MAKE) package ARCH=$(arch);)
	@$(call say,SBOM and checksums)
	@for arch in $(ARCHES); do for program in netexporter inspector; do \
		'$(PACKAGING)'/cyclonedx-gomod bin -json -noserial -version 'v$(VERSION)' \
			-output dist/$${program}_$(VERSION)_$$arch.cdx.json dist/bin/$$arch/$$program; \
	done; done
	@cd dist && sha256sum bin/*/* *.deb *.rpm *.cdx.json >SHA256SUMS

.PHONY: test-package
test-package: package ## Install the packages into a directory of their own and run what is in them
	@go test -count=1 -v ./test/packaging

##### Generated files

.PHONY: generate
generate: generate-bpf generate-go generate-ocb generate-deploy ## Write all generated files anew (needs clang 14)

.PHONY: generate-bpf
generate-bpf: $(CODEGEN)
	@[[ '$(CLANG_FOUND)' == $(CLANG_MAJOR) ]] || \
		{ echo 'The BPF objects are made with clang $(CLANG_MAJOR); found: $(or $(CLANG_FOUND),none). Install clang-$(CLANG_MAJOR).' >&2; exit 1; }
	@$(call say,generate bpf)
	@PATH='$(CODEGEN)':$$PATH BPF2GO_CC='$(CLANG)' go generate ./bpf/...

# metadata.yaml of each component, and whatever else has a go:generate line.
.PHONY: generate-go
generate-go: $(CODEGEN)
	@$(call say,generate go)
	@PATH='$(CODEGEN)':$$PATH go generate $$(go list -e ./... | grep -v '/bpf$$')

# After the others: go mod tidy of the distribution reads the sources of this module. The function run that the
# program's main calls is distribution/run.go's, which takes the place of ocb's.
.PHONY: generate-ocb
generate-ocb: $(OCB)
	@$(call say,generate distribution)
	@'$(OCB)'/builder --config builder-config.yaml --skip-compilation
	@rm distribution/main_others.go

# The base of kustomize is the chart with its defaults.
.PHONY: generate-deploy
generate-deploy: $(DEPLOY)
	@$(call say,generate deploy/kubernetes/base)
	@{ echo '# Made of the chart by `make generate`. Do not edit.'; \
		'$(DEPLOY)'/helm template netexporter deploy/kubernetes/chart --namespace netexporter; \
	} >deploy/kubernetes/base/netexporter.yaml

.PHONY: verify
verify: ## Prove that all generated files are what `make generate` writes, in a clean clone
	@if [[ '$(CLANG_FOUND)' == $(CLANG_MAJOR) ]]; then \
		$(MAKE) generate; \
	else \
		echo 'NOT VERIFIED: the BPF objects. They are made with clang $(CLANG_MAJOR); found: $(or $(CLANG_FOUND),none).' >&2; \
		$(MAKE) generate-go generate-ocb generate-deploy; \
	fi
	@$(call say,verify that nothing changed)
	@git --no-pager diff --exit-code
	@[[ -z "$$(git status --porcelain)" ]] || { git status --short; echo 'Files that are not committed, see above.' >&2; exit 1; }

##### Checks

.PHONY: lint
lint: $(LINT) ## Check style and common mistakes of Go and C, and that go.mod is tidy
	@$(call say,golangci-lint)
	@'$(LINT)'/golangci-lint config verify
	@'$(LINT)'/golangci-lint run
	@$(call say,go vet)
	@go vet ./...
	@$(call say,go mod tidy)
	@go mod tidy -diff
	@$(call say,docs/dependencies.md)
	@awk '/^require/ { on = 1 } /^\)/ { on = 0 } on && NF == 2 && $$1 != "require" { print $$1 }' go.mod | while read -r module; do \
		grep -qF "| \`$$module\` |" docs/dependencies.md || { echo "$$module has no line in docs/dependencies.md" >&2; exit 1; }; \
	done
	@if command -v clang-format >/dev/null; then \
		$(call say,clang-format); \
		clang-format --dry-run -Werror bpf/*.c bpf/include/*.h; \
	else \
		echo 'NOT CHECKED: the format of C, for want of clang-format.' >&2; \
	fi

	@if command -v npm >/dev/null; then \
		$(call say,dashboards against the types that Grafana publishes); \
		npm --prefix internal/tools/grafana ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; \
		node internal/tools/grafana/check.mjs deploy/grafana/dashboards/*.json; \
	else \
		echo 'NOT CHECKED: dashboards against the types that Grafana publishes, for want of npm.' >&2; \
	fi

.PHONY: fmt
fmt: $(LINT) ## Format Go and C
	@'$(LINT)'/golangci-lint fmt
	@if command -v clang-format >/dev/null; then clang-format -i bpf/*.c bpf/include/*.h; fi

##### Tests

# The race detector needs a C compiler.
GO_TEST = go test -json -count=1 -shuffle=on $${race-}
END_TO_END := $(shell find test -name '*_test.go' -printf './%h\n' 2>/dev/null | sort -u)

# A test that cannot run here skips itself with a reason; the summary counts them. The end-to-end tests
# use the binaries and share the machine, so they run alone and one package after another.
# Loki is a server that tests deliver to, and bin/kafka has what they deliver through to it. Each takes minutes to build, once.
bin/loki: $(LOKI)
	@mkdir -p bin
	@ln -sf '$(LOKI)/loki' $@

bin/kafka: $(KAFKA)
	@mkdir -p bin
	@ln -sfn '$(KAFKA)' $@

.PHONY: test
test: build ## Run every test that this machine can run; as root those on the real kernel too
	@if [[ $$EUID != 0 ]]; then \
		echo 'Not root: tests on the real kernel are skipped.' >&2; \
	elif [[ $(INSTALL) == yes ]] && command -v apt-get >/dev/null; then \
		.ci/install test; \
	fi
	@$(MAKE) bin/loki || echo 'NOT TESTED: delivery to Loki, which could not be built.' >&2
	@$(MAKE) bin/kafka || echo 'NOT TESTED: delivery by Kafka, whose components could not be built.' >&2
	@go build -o bin/testsummary ./internal/cmd/testsummary
	@if command -v gcc >/dev/null; then \
		export CGO_ENABLED=1 race=-race; \
	else \
		echo 'NOT CHECKED: data races, for want of gcc.' >&2; \
	fi; \
	{ \
		status=0; \
		$(GO_TEST) $$(go list ./... | grep -v '/netexporter/test/') || status=1; \
		$(if $(END_TO_END),$(GO_TEST) -timeout 30m -p 1 $(END_TO_END) || status=1;) \
		exit $$status; \
	} | bin/testsummary

.PHONY: test-vm
test-vm: ## Run the kernel tests in a virtual machine: make test-vm KERNEL=6.1
	@test/vm/run $(KERNEL)

.PHONY: cluster-tools
cluster-tools: $(IMAGE_TOOL) $(KUBERNETES) $(ETCD) $(DEPLOY) $(LOKI) $(if $(CLUSTER_SCALE),$(KWOK))

# CLUSTER_OPTIONAL: where a cluster cannot run, which is said, that is no failure.
.PHONY: test-cluster
test-cluster: cluster-tools ## Run the image, as deploy/kubernetes has it, in a Kubernetes cluster of two nodes on this machine (root)
	@$(MAKE) image IMAGE_ARCHS=$$(go env GOARCH)
	@export PATH='$(KUBERNETES):$(DEPLOY):$(IMAGE_TOOL):$(LOKI):$(KWOK)':$$PATH ETCD='$(ETCD)/server' CLUSTER_SCALE='$(CLUSTER_SCALE)'; \
	test/cluster/run $(ARGS) || { status=$$?; [[ $$status == 77 && -n '$(CLUSTER_OPTIONAL)' ]] || exit $$status; }

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME (30s)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|/[^/]+:func | |' | sort | \
	while read -r dir target; do \
		echo "==> fuzz $$dir $$target" >&2; \
		go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$dir"; \
	done

# The first run writes, and may report that it did; the second one must find everything as expected.
.PHONY: golden
golden: ## Write the expected files of golden tests anew and show what changed
	@dirs=$$(grep -rlE --include='*_test.go' 'flag\.Bool\("update"' . | xargs -r dirname | sort -u); \
	[[ -n $$dirs ]] || { echo 'No test has a flag -update.' >&2; exit 0; }; \
	go test -count=1 -run Golden $$dirs -update || true; \
	go test -count=1 -run Golden $$dirs
	@git --no-pager diff --stat

.PHONY: scenarios
scenarios: build ## Bring every documented trouble about, and write what was seen into docs/troubleshooting.md and docs/pictures (root)
	@go test -count=1 -timeout 30m ./test/scenarios -run TestTroubles -v -args -write

.PHONY: bench
bench: build ## Measure what the agent costs, and write docs/benchmarks.md and docs/overhead.md (root, some minutes)
	@go run ./test/bench
	@go run ./test/bench -overhead

.PHONY: kernels-doc
kernels-doc: ## Write docs/kernels.md from the outputs of test/vm/run: make kernels-doc LOGS='DIR/*.output'
	@go run ./internal/cmd/kernelsdoc $(LOGS) >docs/kernels.md

# The kernels are those of test/vm, which keeps them in the same place.
VM_KERNELS := $(shell awk '!/^\#/ && NF { print $$1 }' test/vm/kernels)
VM_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/netexporter/vm
.PHONY: btf-corpus
btf-corpus: ## Reduce the BTF of the kernels of test/vm to what the BPF objects want, into testdata/btf
	@test/vm/fetch '$(VM_CACHE)/kernels' $(VM_KERNELS)
	@go run ./internal/cmd/btfcorpus -objects bpf -o testdata/btf $(foreach k,$(VM_KERNELS),$(k)='$(VM_CACHE)/kernels/$(k)/vmlinux')

.PHONY: clean
clean: ## Remove what was built in the tree
	@rm -rf bin dist

##### Tools

# Without these the servers are v0.0.0-master, which their clients take for very old.
KUBE_VERSION = $(shell sed -nE 's|^.*k8s.io/kubernetes (v[^ ]*).*|\1|p' internal/tools/kubernetes/go.mod)
$(KUBERNETES): LDFLAGS = $(foreach v,gitVersion=$(KUBE_VERSION) gitMajor=1 gitMinor=$(word 2,$(subst ., ,$(KUBE_VERSION))),-X k8s.io/component-base/version.$(v))

$(TOOLS)/%:
	@$(call say,build the tools of internal/tools/$(firstword $(subst -, ,$(@F))))
	@mkdir -p '$(TOOLS)'
	@rm -rf '$@.new'
	@CGO_ENABLED=0 go build -C internal/tools/$(firstword $(subst -, ,$(@F))) $(BUILD_FLAGS) -o '$@.new/' tool
	@mv -T '$@.new' '$@'
