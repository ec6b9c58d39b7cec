# clr-dkms. `make` alone lists the targets.

PREFIX ?= /usr
BINDIR ?= $(PREFIX)/bin
LIBEXECDIR ?= $(PREFIX)/libexec
UNITDIR ?= $(PREFIX)/lib/systemd/system
DATADIR ?= $(PREFIX)/share
LICENSEDIR ?= $(DATADIR)/licenses/clr-dkms
BINDIR_FROM ?= target/release
PAGES_FROM ?= target/pages
# The compiler runs as the owner of this tree, and steps that need root use run-as.sh. So `make` works as
# root, with sudo, and as a normal user that has sudo, in any order.
OWNER := tests/support/run-as.sh owner
ROOT := tests/support/run-as.sh root
CARGO ?= $(OWNER) cargo
# If packages are missing, the first prints the command that installs them, and the second installs them.
CHECK := tests/support/ensure-packages.sh --check
INSTALL := tests/support/ensure-packages.sh

# The installer takes its settings from the environment, so that a space or quote in DESTDIR is harmless.
export DESTDIR PREFIX BINDIR LIBEXECDIR UNITDIR DATADIR LICENSEDIR BINDIR_FROM PAGES_FROM
# The requested targets, for messages.
export MAKECMDGOALS
# install, demo and tests look for the programs here, whatever the caller's environment says.
export CARGO_TARGET_DIR := $(CURDIR)/target

# Tests of fixtures wait for namespaces about a third of their time.
THREADS = $(shell echo $$((2 * $$(nproc))))

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PROGRAMS := clr-dkms clr-dkms-pre-update clr-dkms-post-update clr-dkms-cmdline clr-dkms-motd clr-dkms-variant
BUILT := $(PROGRAMS:%=target/release/%) target/pages/man/man8/clr-dkms.8
SOURCES := $(wildcard Cargo.toml Cargo.lock build.rs src/*.rs src/*/*.rs src/*/*.sh cmdline.d/* motd.d/* packaging/*.conf packaging/pages/Cargo.toml packaging/pages/src/*)

.PHONY: help setup build compile ready fetch demo timeline pictures test fuzz test-systemd test-vm test-vm-long test-packages check lint unit shell bench test-sources lines audit install uninstall deb clean

help: ## this text
	@echo 'clr-dkms: is it safe to reboot, and will the modules be there?'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'First time:    make setup build && sudo make install'
	@echo 'For a package: make build && make install DESTDIR=pkg'
	@echo 'To be set:     DESTDIR PREFIX BINDIR LIBEXECDIR UNITDIR DATADIR LICENSEDIR, and BINDIR_FROM, PAGES_FROM (built elsewhere)'

setup: ## installs what build, install, check and deb need (as root)
	@$(INSTALL) build check

build: fetch ## the six programs, in target/release, and their manual pages and completions, in target/pages
	@$(OWNER) $(MAKE) --no-print-directory compile

compile:
	$(CARGO) build --release --locked --workspace
	rm -rf target/pages
	mkdir target/pages
	target/release/clr-dkms-pages target/pages
	touch $(BUILT)

# Without the touch, make would always consider a program outdated that a change did not affect.
$(BUILT) &: $(SOURCES)
	$(MAKE) --no-print-directory build

demo: ## a real update in a scratch root: real dkms, real headers, real modules (installs what is missing, as root)
	@$(INSTALL) build dkms demo
	$(MAKE) --no-print-directory build
	@$(ROOT) tests/support/demo.sh

timeline: ## docs/update-timeline.svg, drawn from its .dot (installs graphviz, as root)
	@$(INSTALL) timeline
	tests/support/pictures-timeline.py draw

pictures: timeline ## and docs/*.png: screens in a real terminal, of machines as in demo (installs it, as root)
	@$(INSTALL) build dkms test pictures
	$(MAKE) --no-print-directory build
	$(ROOT) tests/support/pictures.sh

# The tests of the stand-in wait for the most part: beside the build.
# On Clear Linux no bundle has some of the tools: what needs one is left out there.
test: export CLR_DKMS_NO_SKIPS = $(if $(shell command -v apt-get),1)
# `cargo test` alone tests fewer cases, to be quick.
test: export CLR_DKMS_MORE_CASES = 1
test: ## everything, in 20 to 45 minutes on two processors; what CI runs (installs what is missing, as root)
	@$(INSTALL) build dkms test systemd
	@# The last two lines run these groups with more cases.
	$(MAKE) --no-print-directory check UNIT_OPTIONS='-- --skip unread:: --skip kills:: --test-threads $(THREADS)'
	$(OWNER) python3 tests/support/test-stand-in.py & $(MAKE) --no-print-directory build && wait $$!
	$(ROOT) tests/support/test-scratch-root.sh
	$(ROOT) tests/support/test-live.sh
	$(ROOT) tests/support/test-systemd.sh
	$(OWNER) tests/support/test-packaging.sh
	$(OWNER) tests/support/test-fleet.sh
	CLR_DKMS_REAL=1 $(CARGO) --config 'target."cfg(all())".runner = ["$(CURDIR)/tests/support/run-as.sh", "root"]' \
	    test --locked --test real
	CLR_DKMS_UNREAD=15 $(CARGO) test --locked --test it unread:: -- --test-threads $(THREADS)
	CLR_DKMS_KILLS=300 $(CARGO) test --locked --test it kills::

test-systemd: ## the part of test that boots containers: updates, failures, power cuts under the real systemd (as root)
	@$(INSTALL) build dkms test systemd
	$(MAKE) --no-print-directory build
	$(ROOT) tests/support/test-systemd.sh

# Not a part of test, because of its time. SCENES=… plays only the scenes whose names contain a word.
VM := CLR_DKMS_VM=1 $(CARGO) --config 'target."cfg(all())".runner = ["$(CURDIR)/tests/support/run-as.sh", "root"]' \
    test --locked --test vm --

test-vm: ## kernels that are really booted, in virtual machines: predictions against outcomes (as root, from 25 minutes)
	@$(INSTALL) build vm
	$(MAKE) --no-print-directory build
	$(VM) $(SCENES)

test-vm-long: export CLR_DKMS_VM_LONG = 1
test-vm-long: ## the same with a compilation in the guest and more power cuts (as root, an hour)
	@$(MAKE) --no-print-directory test-vm

# RUNS=50000 makes this number of runs, however long they take. SEED=N repeats the runs of a seed.
fuzz: fetch ## the programs on roots of the tests with some files changed, for a minute (RUNS=N, SEED=N); no root rights needed
	CLR_DKMS_FUZZ="$(if $(RUNS),--runs $(RUNS),--seconds 60)$(if $(SEED), --seed $(SEED))" \
	    $(CARGO) test --locked --test it fuzz:: -- --nocapture

# Not a part of test, because the packages that it downloads change.
test-packages: ## the *-dkms packages of this Debian: linted, built and proven (downloads them, installs none; as root)
	@$(INSTALL) build dkms test
	@$(MAKE) --no-print-directory fetch
	$(CARGO) build --locked
	$(ROOT) tests/support/lint-packages.sh target/debug/clr-dkms
	$(ROOT) tests/support/build-packages.sh target/debug

check: ready lint unit shell ## the quick part of test: needs no root, no dkms and no kernel headers

ready:
	@$(CHECK) build check

# It runs first and alone. The later steps do not need the network.
fetch:
	@$(CHECK) build
	@$(INSTALL) --crates $(CARGO)

lint: ready fetch
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

unit: fetch
	$(CARGO) test --locked $(UNIT_OPTIONS)

# Every file that starts like a shell script. The trees in tests/roots are recorded input.
shell: ready
	find hooks packaging src tests .ci -path tests/roots -prune -o -type f -exec \
	    awk 'FNR == 1 && /^#!.*[\/ ](ba)?sh( |$$)/ { printf "%s%c", FILENAME, 0 } { nextfile }' {} + | xargs -0 shellcheck
	$(OWNER) tests/support/test-install.sh
	$(OWNER) tests/support/test-pages.sh
	tests/support/test-pictures.sh
	tests/support/test-make.sh

test-sources: ready ## adopts the projects in SOURCES, a directory of checkouts (real dkms, half an hour)
	@[ -n "$(SOURCES)" ] || { echo 'name the directory of the checkouts: make test-sources SOURCES=DIR' >&2; exit 64; }
	$(CARGO) build --locked --bin clr-dkms
	$(OWNER) tests/support/test-sources.sh $(SOURCES)

lines: ## how many lines of code there are, by directory: without blanks, comments and tests
	@python3 tests/support/count-lines.py

bench: ## whole programs beside today's scripts (real dkms, some minutes), and the rules alone
	@$(INSTALL) build dkms test
	$(MAKE) --no-print-directory build
	$(ROOT) tests/support/bench.py
	$(CARGO) bench --locked --bench verdict

audit: fetch ## licences, bans and sources of everything that we depend on
	$(CARGO) deny --version >/dev/null 2>&1 || env -u CARGO_TARGET_DIR $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

# Builds nothing if the programs are up to date, so that `sudo make install` does not run the compiler.
install: $(if $(filter target/release,$(BINDIR_FROM)),$(BUILT)) ## everything into DESTDIR/PREFIX; refuses to overwrite what is not ours
	packaging/install.sh install

uninstall: ## what install put there, and the records of the programs; says what stays
	packaging/install.sh uninstall

deb: $(if $(filter target/release,$(BINDIR_FROM)),$(BUILT)) ## a Debian package for trying it out, in target/
	packaging/deb/build.sh target

# Some files belong to root: containers, and scratch roots of an interrupted demo.
clean: ## removes target/
	$(ROOT) rm -rf --one-file-system target
