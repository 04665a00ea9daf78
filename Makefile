# The C library liblvs_dr with lvs_dr.h and lvs_dr.pc, and the programs lvs-node and lvs-ipvsadm with what belongs to them: systemd
# unit, resource agent, man pages, completions, documents, examples. Rust programs do not need this: they `cargo add lvs-dr`.
#
#   make                    builds all of it; `make library` and `make programs` a part
#   make install            below PREFIX (/usr/local), with DESTDIR before it for packages; `make install-library`,
#                           `make install-programs`
#   make deb                packages for Debian and Ubuntu, in target/deb: lvs-dr, liblvs-dr0.1, liblvs-dr-dev
#   make check              builds and runs the C programs, in the lab where they need a kernel (see tests/lab), and what is installed;
#                           takes gcc and g++, pkg-config, valgrind, and python3 with cffi
#   make header             brings include/lvs_dr.h up to date with src/capi/
#   make public-api         compares the public API with tests/public-api.txt
#   make targets            checks that the library compiles for other targets (TARGETS), whose standard libraries rustup fetches
#   make uninstall
#
# Pacemaker looks for resource agents below /usr/lib/ocf alone: with another PREFIX, set OCFDIR.

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
DOCDIR ?= $(DATADIR)/doc/lvs-dr
UNITDIR ?= $(PREFIX)/lib/systemd/system
OCFDIR ?= $(PREFIX)/lib/ocf/resource.d/lvs-dr
BASHDIR ?= $(DATADIR)/bash-completion/completions
ZSHDIR ?= $(DATADIR)/zsh/site-functions
FISHDIR ?= $(DATADIR)/fish/vendor_completions.d
CARGO ?= cargo
CARGOFLAGS ?= --locked
INSTALL ?= install
# dev builds faster, and is what checks are made with
PROFILE ?= $(if $(filter check,$(MAKECMDGOALS)),dev,dist)

export PROFILE
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
OUT := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

# Before 1.0 each minor version may break the ABI, and has a SONAME of its own.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
MAJOR := $(word 1,$(subst ., ,$(VERSION)))
ABI := $(if $(filter 0,$(MAJOR)),0.$(word 2,$(subst ., ,$(VERSION))),$(MAJOR))
SONAME := liblvs_dr.so.$(ABI)
# What `rustc --print native-static-libs` names.
PRIVATE := -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc

SOURCES := Cargo.toml Cargo.lock build.rs $(shell find src -name '*.rs' -o -name '*.h')

PROGRAM_SOURCES := $(shell find examples/lvs-node examples/ipvsadm -type f)
PAGES := lvs-node.8 lvs-node.toml.5 lvs-dr.7
# Made by lvs-node itself.
MADE := $(OUT)/lvs-node.made

all: library programs
library: $(OUT)/liblvs_dr.so
programs: $(MADE)

$(OUT)/liblvs_dr.a: $(SOURCES)
	$(CARGO) rustc $(CARGOFLAGS) --lib --features capi --profile $(PROFILE) --crate-type staticlib
	touch $@

# The linker makes the shared library from the static one: rustc's own has no versions of symbols.
$(OUT)/liblvs_dr.so: $(OUT)/liblvs_dr.a
	printf 'LVS_DR_%s { global: lvs_*; local: *; };\n' '$(ABI)' >$(OUT)/lvs_dr.map
	$(CC) -shared -o $@ -Wl,-soname,$(SONAME) -Wl,--version-script=$(OUT)/lvs_dr.map -Wl,--gc-sections -Wl,-z,now \
	    -Wl,--whole-archive $< -Wl,--no-whole-archive $(PRIVATE) $(LDFLAGS)
	ln -sf liblvs_dr.so $(OUT)/$(SONAME)

$(OUT)/examples/lvs-node $(OUT)/examples/ipvsadm &: $(SOURCES) $(PROGRAM_SOURCES)
	$(CARGO) build $(CARGOFLAGS) --profile $(PROFILE) --example lvs-node --example ipvsadm
	touch $(OUT)/examples/lvs-node $(OUT)/examples/ipvsadm

$(MADE): $(OUT)/examples/lvs-node
	rm -rf $@ && mkdir -p $@
	$< man $@
	for shell in bash zsh fish; do $< completions $$shell >$@/$$shell || exit; done

install: install-library install-programs

install-library: library
	$(INSTALL) -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	$(INSTALL) -m 644 include/lvs_dr.h $(DESTDIR)$(INCLUDEDIR)/lvs_dr.h
	$(INSTALL) -m 644 $(OUT)/liblvs_dr.a $(DESTDIR)$(LIBDIR)/liblvs_dr.a
	$(INSTALL) -m 755 $(OUT)/liblvs_dr.so $(DESTDIR)$(LIBDIR)/liblvs_dr.so.$(VERSION)
	ln -sf liblvs_dr.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/liblvs_dr.so
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$(INCLUDEDIR)' '' 'Name: lvs_dr' \
	    'Description: Linux IPVS in direct-routing mode, VIP placement, ARP settings and role switching' \
	    'Version: $(VERSION)' 'Libs: -L$${libdir} -llvs_dr' 'Libs.private: $(PRIVATE)' \
	    'Cflags: -I$${includedir}' >$(DESTDIR)$(LIBDIR)/pkgconfig/lvs_dr.pc

# The unit of systemd and the examples name the programs where they are installed.
PLACED = sed 's|/usr/local/bin/|$(BINDIR)/|g'

install-programs: programs
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(UNITDIR) $(OCFDIR) $(BASHDIR) $(ZSHDIR) $(FISHDIR) $(DOCDIR)/docs)
	$(INSTALL) -m 755 $(OUT)/examples/lvs-node $(DESTDIR)$(BINDIR)/lvs-node
	$(INSTALL) -m 755 $(OUT)/examples/ipvsadm $(DESTDIR)$(BINDIR)/lvs-ipvsadm
	$(PLACED) examples/systemd/lvs-node.service >$(DESTDIR)$(UNITDIR)/lvs-node.service
	$(INSTALL) -m 755 examples/ocf/lvs-node $(DESTDIR)$(OCFDIR)/lvs-node
	for page in $(PAGES); do \
	    $(INSTALL) -D -m 644 $(MADE)/$$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$$page || exit; done
	$(INSTALL) -D -m 644 examples/ipvsadm/lvs-ipvsadm.8 $(DESTDIR)$(MANDIR)/man8/lvs-ipvsadm.8
	$(INSTALL) -m 644 $(MADE)/bash $(DESTDIR)$(BASHDIR)/lvs-node
	$(INSTALL) -m 644 $(MADE)/zsh $(DESTDIR)$(ZSHDIR)/_lvs-node
	$(INSTALL) -m 644 $(MADE)/fish $(DESTDIR)$(FISHDIR)/lvs-node.fish
	$(INSTALL) -m 644 README.md LICENSE-MIT LICENSE-APACHE $(DESTDIR)$(DOCDIR)
	$(INSTALL) -m 644 docs/*.md docs/*.svg $(DESTDIR)$(DOCDIR)/docs
	for example in $(EXAMPLES); do $(INSTALL) -d $(DESTDIR)$(DOCDIR)/$$(dirname $$example) && \
	    $(PLACED) $$example >$(DESTDIR)$(DOCDIR)/$$example || exit; done

# What is of use without a clone of the repository.
EXAMPLES := $(wildcard examples/systemd/*.service examples/systemd/*.d/* examples/c/*.c examples/c/*.cpp examples/ldirectord/* examples/bird/* examples/frr/*) \
    examples/keepalived/keepalived.conf \
    examples/keepalived/node.toml examples/lvs-node/man/node.toml $(wildcard docs/*.json packaging/prometheus/*.yml packaging/grafana/*.json)

uninstall:
	rm -f $(DESTDIR)$(INCLUDEDIR)/lvs_dr.h $(DESTDIR)$(LIBDIR)/pkgconfig/lvs_dr.pc
	rm -f $(DESTDIR)$(LIBDIR)/liblvs_dr.a $(DESTDIR)$(LIBDIR)/liblvs_dr.so $(DESTDIR)$(LIBDIR)/$(SONAME)
	rm -f $(DESTDIR)$(LIBDIR)/liblvs_dr.so.$(VERSION)
	rm -f $(DESTDIR)$(BINDIR)/lvs-node $(DESTDIR)$(BINDIR)/lvs-ipvsadm $(DESTDIR)$(UNITDIR)/lvs-node.service
	rm -f $(DESTDIR)$(OCFDIR)/lvs-node $(foreach page,$(PAGES),$(DESTDIR)$(MANDIR)/man$(lastword $(subst ., ,$(page)))/$(page))
	rm -f $(DESTDIR)$(MANDIR)/man8/lvs-ipvsadm.8
	rm -f $(DESTDIR)$(BASHDIR)/lvs-node $(DESTDIR)$(ZSHDIR)/_lvs-node $(DESTDIR)$(FISHDIR)/lvs-node.fish
	rm -rf $(DESTDIR)$(DOCDIR)

# The programs of the kernel tests (tests/kernel/capi.rs), and what needs no kernel: C99 and C++ take the header, and a program
# builds against what is installed, by pkg-config, with either library.
CHECKED := $(CARGO_TARGET_DIR)/c
STRICT := -Wall -Wextra -Wpedantic -Werror
STAGE := $(CHECKED)/stage
PKG_CONFIG = PKG_CONFIG_PATH=$(STAGE)/lib/pkgconfig pkg-config

check: $(CHECKED)/misuse $(CHECKED)/control $(CHECKED)/link $(CHECKED)/guest
	$(MAKE) -C examples/c
	for standard in c90 c99 c17; do $(CC) -std=$$standard $(STRICT) -fsyntax-only -x c include/lvs_dr.h || exit; done
	$(CXX) -std=c++11 $(STRICT) -fsyntax-only -x c++ include/lvs_dr.h
	$(MAKE) check-install
	$(if $(shell command -v dpkg-shlibdeps),$(MAKE) check-packages)
	rm -rf $(STAGE)
	$(MAKE) install-library DESTDIR= PREFIX=$(STAGE) LIBDIR=$(STAGE)/lib INCLUDEDIR=$(STAGE)/include
	$(CC) -std=c99 $(STRICT) examples/c/director.c $$($(PKG_CONFIG) --cflags --libs lvs_dr) -o $(STAGE)/shared
	$(CC) -std=c99 $(STRICT) examples/c/loop.c $$($(PKG_CONFIG) --cflags --libs lvs_dr) -o $(STAGE)/loop
	$(CXX) -std=c++11 $(STRICT) examples/c/table.cpp $$($(PKG_CONFIG) --cflags --libs lvs_dr) -o $(STAGE)/table
	# What is exported is what the header declares, each with the version of the ABI.
	nm -D --defined-only $(STAGE)/lib/$(SONAME) | sed -n 's/.* T //p' | sort >$(CHECKED)/exported
	sed -n 's/^[a-z].*[ *]\(lvs_[a-z0-9_]*\)(.*/\1@@LVS_DR_$(ABI)/p' include/lvs_dr.h | sort | diff - $(CHECKED)/exported
	LD_LIBRARY_PATH=$(STAGE)/lib ldd $(STAGE)/shared | grep -q '$(SONAME) => $(STAGE)/lib/$(SONAME) '
	$(CC) -std=c99 $(STRICT) examples/c/director.c -Wl,-Bstatic $$($(PKG_CONFIG) --cflags --libs lvs_dr) \
	    -Wl,-Bdynamic $$($(PKG_CONFIG) --static --libs-only-l lvs_dr | sed 's/-llvs_dr//') -o $(STAGE)/static
	! ldd $(STAGE)/static | grep lvs_dr
	$(CARGO) test $(CARGOFLAGS) --features capi --test kernel capi::

# What is installed, where, and that it runs from there; and what packages are made of it.
check-install:
	tests/install

check-packages:
	tests/packages

deb:
	packaging/deb

# A caller that does everything wrong. (The address sanitizer wants more address space than a process of the lab's guest has;
# valgrind does its part there, and tests/c/sanitizers runs it under QEMU.)
$(CHECKED)/misuse: tests/c/misuse.c include/lvs_dr.h $(OUT)/liblvs_dr.so
	mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) -g -fsanitize=undefined -fno-sanitize-recover=all -static-libubsan \
	    -Iinclude $< $(OUT)/liblvs_dr.a $(PRIVATE) -o $@

$(CHECKED)/control $(CHECKED)/link $(CHECKED)/guest: $(CHECKED)/%: tests/c/%.c tests/c/expect.h include/lvs_dr.h $(OUT)/liblvs_dr.so
	mkdir -p $(@D)
	$(CC) -std=c99 $(STRICT) -g -Iinclude $< $(OUT)/liblvs_dr.a $(PRIVATE) -o $@

header:
	mkdir -p include
	UPDATE_HEADER=1 $(CARGO) test $(CARGOFLAGS) --features capi --lib capi::tests

public-api:
	tests/public-api

TARGETS ?= x86_64-unknown-linux-musl aarch64-unknown-linux-gnu i686-unknown-linux-gnu s390x-unknown-linux-gnu

targets:
	for target in $(TARGETS); do echo "== $$target"; rustup target add $$target && \
	    $(CARGO) check $(CARGOFLAGS) --lib --all-features --target $$target || exit; done

.PHONY: public-api targets all library programs install install-library install-programs uninstall check check-install check-packages deb header
