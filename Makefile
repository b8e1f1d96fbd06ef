# The front door. `make` lists what there is.

PREFIX ?= /usr/local
DESTDIR ?=

# scripts/toolchain finds a cargo that is new enough, also where it is not in PATH.
CARGO = PATH="$$(scripts/toolchain):$$PATH" cargo

# Where this machine's OpenSSL looks for providers and keeps openssl.cnf.
MODULESDIR ?= $(shell openssl version -m 2>/dev/null | sed -n 's/^MODULESDIR: "\(.*\)"$$/\1/p')
# Where it looks for engines; 4.0 has none.
ENGINESDIR ?= $(shell openssl version -e 2>/dev/null | sed -n 's/^ENGINESDIR: "\(.*\)"$$/\1/p')
OPENSSLDIR ?= $(shell openssl version -d 2>/dev/null | sed -n 's/^OPENSSLDIR: "\(.*\)"$$/\1/p')
SYSCONFDIR ?= /etc
BUILT ?= target/release

.PHONY: help build demo test soak applications bench fmt clippy install uninstall clean

help: ## this list
	@echo "hsmkey: OpenSSL signs with keys that live in an HSM"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1    \2/p' Makefile

build: ## hsmkey.so and the hsmkey command, in target/release (installs what the build needs)
	@scripts/prerequisites build
	$(CARGO) build --release --locked --lib --bins
	@cp -f target/release/libhsmkey.so target/release/hsmkey.so

demo: build ## one signing script, run with a key file and then, unchanged, with a key in an HSM
	@scripts/prerequisites demo
	$(CARGO) build --release --locked --package cloudhsm
	@demo/run

test: ## every test (installs what they need)
	@scripts/prerequisites test
	@scripts/prerequisites applications
	@scripts/test

soak: ## the long versions of the reliability tests (half an hour)
	@scripts/prerequisites test
	@HSMKEY_SOAK=1 scripts/test --test reliability --test hsm -- --test-threads 1 --nocapture

applications: ## 300 requests and more to each application, and the table in docs/applications.md anew
	@scripts/prerequisites test
	@scripts/prerequisites applications
	@HSMKEY_APPLICATIONS=write HSMKEY_SOAK=1 scripts/test --test applications -- --skip the_table
	@HSMKEY_APPLICATIONS=write $(CARGO) test --quiet --locked --test applications -- the_table

bench: ## what hsmkey costs, against budgets: docs/performance.md (ten minutes on a quiet machine)
	@scripts/prerequisites test
	@scripts/prerequisites bench
	$(CARGO) build --release --locked --lib --package hsmkey --package cloudhsm
	@$(if $(filter 0,$(shell id -u)),nice -n -15 )env $(CARGO) bench --quiet --locked --bench performance

fmt: ## formats the code
	$(CARGO) fmt --all

clippy: ## the lints, as errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

install: ## hsmkey.so for OpenSSL, the command and the openssl.cnf for it (PREFIX, DESTDIR, MODULESDIR, ENGINESDIR, OPENSSLDIR, SYSCONFDIR)
	@test -f "$(BUILT)/hsmkey.so" || { echo "run make build first" >&2; exit 1; }
	@test -n "$(MODULESDIR)" -a -n "$(OPENSSLDIR)" || { echo "no openssl 3 in PATH: give MODULESDIR and OPENSSLDIR" >&2; exit 1; }
	install -D -m 755 "$(BUILT)/hsmkey.so" "$(DESTDIR)$(MODULESDIR)/hsmkey.so"
	install -D -m 755 "$(BUILT)/hsmkey" "$(DESTDIR)$(PREFIX)/bin/hsmkey"
	@install -d "$(DESTDIR)$(SYSCONFDIR)/hsmkey"
	@# What Ruby and Node.js read before a program (docs/applications.md).
	install -m 644 conf/hsmkey.rb conf/hsmkey.js "$(DESTDIR)$(SYSCONFDIR)/hsmkey/"
	@if [ -n "$(ENGINESDIR)" ]; then install -d "$(DESTDIR)$(ENGINESDIR)" && ln -sf "$(MODULESDIR)/hsmkey.so" "$(DESTDIR)$(ENGINESDIR)/hsmkey.so"; fi
	scripts/openssl-cnf "$(OPENSSLDIR)/openssl.cnf" > "$(DESTDIR)$(SYSCONFDIR)/hsmkey/openssl.cnf.new"
	scripts/openssl-cnf "$(OPENSSLDIR)/openssl.cnf" openssl-all-versions.cnf "$(MODULESDIR)/hsmkey.so" \
	  > "$(DESTDIR)$(SYSCONFDIR)/hsmkey/openssl-all-versions.cnf.new"
	scripts/openssl-cnf "$(OPENSSLDIR)/openssl.cnf" engine.cnf "$(MODULESDIR)/hsmkey.so" > "$(DESTDIR)$(SYSCONFDIR)/hsmkey/engine.cnf.new"
	@# An administrator's changes stay.
	@cd "$(DESTDIR)$(SYSCONFDIR)/hsmkey" && for file in openssl.cnf openssl-all-versions.cnf engine.cnf; do \
	  if [ ! -e $$file ]; then mv $$file.new $$file; \
	  elif cmp -s $$file $$file.new; then rm $$file.new; \
	  else echo "kept $(SYSCONFDIR)/hsmkey/$$file; the new one is beside it"; fi; \
	done

uninstall: ## removes hsmkey.so and the command; the configuration stays
	rm -f "$(DESTDIR)$(MODULESDIR)/hsmkey.so" "$(DESTDIR)$(PREFIX)/bin/hsmkey"
	@if [ -n "$(ENGINESDIR)" ]; then rm -f "$(DESTDIR)$(ENGINESDIR)/hsmkey.so"; fi

clean: ## removes what was built
	$(CARGO) clean
