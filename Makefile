# SPDX-License-Identifier: BSD-3-Clause
# Builds build/tideway from core/, and runs, tests, checks and installs it. `make help` lists the targets.

PREFIX ?= /usr/local
BUILD ?= build
LUAJIT ?= luajit
CLANG ?= clang
PKG_CONFIG ?= pkg-config
WERROR ?= -Werror

# Built binaries must run on other machines of the same architecture; ARCH_FLAGS=-march=native is yours.
# It stands after DPDK's own -march on the command line, so it wins.
ifeq ($(shell uname -m),x86_64)
ARCH_FLAGS ?= -march=x86-64-v2
endif

binary := $(BUILD)/tideway
sources := $(wildcard core/*.c core/*/*.c)
generated := $(BUILD)/gen/abi_cdef.c $(BUILD)/gen/abi_assert.c $(BUILD)/gen/redirect_object.c
objects := $(sources:core/%.c=$(BUILD)/core/%.o) $(generated:.c=.o)
abi := $(wildcard core/abi*.h)

libraries := libdpdk luajit libbpf libelf libpcap libseccomp

# ---- fail early, with the one line that mends it ----

package_libdpdk := libdpdk-dev
package_luajit := libluajit-5.1-dev
package_libbpf := libbpf-dev
package_libelf := libelf-dev
package_libseccomp := libseccomp-dev
package_libpcap := libpcap-dev

goals := $(or $(MAKECMDGOALS),all)
ifneq ($(filter all install bench check $(BUILD)/%,$(goals)),)
ifeq ($(shell command -v $(PKG_CONFIG)),)
$(error pkg-config is missing: apt-get install -y --no-install-recommends pkg-config   (or: make deps))
endif
missing := $(strip $(foreach l,$(libraries),$(if $(shell $(PKG_CONFIG) --exists $l || echo no),$(package_$l))) \
	$(if $(wildcard /usr/include/http_parser.h /usr/local/include/http_parser.h),,libhttp-parser-dev) \
	$(if $(shell command -v $(CLANG)),,clang) $(if $(shell command -v $(LUAJIT)),,luajit) \
	$(if $(shell command -v $(CC)),,build-essential))
ifneq ($(missing),)
$(error missing: apt-get install -y --no-install-recommends $(missing)   (or: make deps))
endif
lib_cflags := $(patsubst -I%,-isystem%,$(shell $(PKG_CONFIG) --cflags $(libraries)))
lib_ldflags := $(shell $(PKG_CONFIG) --libs $(libraries))
endif

# Link-time optimisation: the poll loop is spread over files, each with one job.
CFLAGS ?= -O3 -flto=auto
all_cflags = $(CFLAGS) -g -std=gnu11 -Wall -Wextra $(WERROR) -D_GNU_SOURCE -Icore -pthread \
	$(lib_cflags) $(ARCH_FLAGS) $(EXTRA_CFLAGS)
# -E: LuaJIT's FFI finds the engine's functions as dynamic symbols, Lua's C modules find the Lua API.
all_ldflags = -Wl,-E $(LDFLAGS) $(EXTRA_LDFLAGS)
# Wire ports use the ring driver by its API; pkg-config leaves drivers out.
all_libs = $(lib_ldflags) -lhttp_parser -lrte_net_ring -lpthread -ldl -lm

# V=1 shows the commands, -s nothing.
ifeq ($(V)$(findstring s,$(firstword -$(MAKEFLAGS))),)
say = @echo '  $1 $@';
endif

.PHONY: all deps have-deps run test check format bench install uninstall clean help asan fuzz
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

all: $(binary) ## build build/tideway (default)

$(binary): $(objects)
	$(call say,LINK)$(CC) $(all_cflags) $(all_ldflags) -o $@ $^ $(all_libs)

# Rebuild when the flags change.
flags_file := $(BUILD)/.flags
flags_now = $(CC) $(all_cflags) $(all_ldflags) $(all_libs)
ifneq ($(filter all install bench check $(BUILD)/%,$(goals)),)
ifneq ($(shell cat $(flags_file) 2>/dev/null),$(flags_now))
$(shell mkdir -p $(BUILD) && rm -f $(flags_file))
endif
endif
$(flags_file):
	@mkdir -p $(@D) && printf '%s\n' '$(flags_now)' > $@

$(BUILD)/core/%.o: core/%.c $(flags_file)
	@mkdir -p $(@D)
	$(call say,CC  )$(CC) $(all_cflags) -MMD -MP -c -o $@ $<

$(BUILD)/gen/%.o: $(BUILD)/gen/%.c $(flags_file)
	$(call say,CC  )$(CC) $(all_cflags) -MMD -MP -c -o $@ $<

-include $(objects:.o=.d)

# ---- the boundary: core/abi.h becomes the FFI cdef, and the FFI's idea of it becomes assertions ----

$(BUILD)/gen/abi_cdef.h: $(abi)
	@mkdir -p $(@D)
	$(call say,GEN )echo '#include "abi.h"' | $(CC) -E -P -Icore -DTW_CDEF '-DTW_ALIGNED(n)=' -x c - > $@

$(BUILD)/gen/abi_cdef.c: $(BUILD)/gen/abi_cdef.h scripts/gen-abi.lua
	$(call say,GEN )$(LUAJIT) scripts/gen-abi.lua cdef $< > $@

$(BUILD)/gen/abi_assert.c: $(BUILD)/gen/abi_cdef.h scripts/gen-abi.lua
	$(call say,GEN )$(LUAJIT) scripts/gen-abi.lua assert $< > $@

# ---- the program of the kernel that passes descriptors on (core/msg), as bytes ----

bpf_include = /usr/include/$(shell $(CC) -dumpmachine)

$(BUILD)/gen/redirect.bpf.o: bpf/redirect.bpf.c core/msg/routes.h core/msg/pool.h $(abi)
	@mkdir -p $(@D)
	$(call say,BPF )$(CLANG) -O2 -g -target bpf -mcpu=v3 -ffreestanding -Wall -Wextra $(WERROR) -Icore \
		-idirafter $(bpf_include) -fdebug-compilation-dir=. -c $< -o $@

$(BUILD)/gen/redirect_object.c: $(BUILD)/gen/redirect.bpf.o
	$(call say,GEN ){ echo '#include <stddef.h>'; \
		echo 'const unsigned char tw_redirect_object[] __attribute__((aligned(8))) = {'; \
		od -An -v -tx1 $< | sed 's/ \(..\)/0x\1,/g'; echo '};'; \
		echo 'const size_t tw_redirect_object_size = sizeof(tw_redirect_object);'; } > $@

# ---- set-up, run, test ----

deps: ## install what is missing (Debian packages)
	@scripts/deps

# Costs a few milliseconds when nothing is missing.
have-deps:
	@scripts/deps --check >/dev/null || scripts/deps

run: have-deps ## build, then real traffic through an edge chain between two network namespaces
	@$(MAKE) --no-print-directory all
	@scripts/demo

test: have-deps ## build, then run the specs in test/ inside the engine (TESTS=files, FILTER=pattern)
	@$(MAKE) --no-print-directory all
	@$(binary) test $(if $(FILTER),--filter '$(FILTER)') $(or $(TESTS),test/)

bench: all ## build, then measure against other dataplanes, into build/bench/index.html (ONLY=names of experiments)
	@scripts/deps --bench
	@scripts/bench/build-peers
	@mkdir -p $(BUILD)/bench
	@$(binary) bench $(if $(ONLY),--only '$(ONLY)') --json $(BUILD)/bench/result.json \
		--csv $(BUILD)/bench/result.csv --html $(BUILD)/bench/index.html scripts/bench/standard.lua

check: all ## formats, linters, layer rules, ABI drift
	@scripts/check

format: ## lay out core/ as clang-format wants it
	clang-format -i core/*.[ch] core/*/*.[ch]

asan: have-deps ## build build/asan/tideway with address and undefined-behaviour sanitizers
	@$(MAKE) --no-print-directory all BUILD=$(BUILD)/asan CFLAGS='-O1 -fno-omit-frame-pointer' \
		EXTRA_CFLAGS='-fsanitize=address,undefined -fno-sanitize-recover=undefined' \
		EXTRA_LDFLAGS='-fsanitize=address,undefined'

# HTTP has a fuzzer of its own (libFuzzer), and a third of the time.
fuzz: asan ## mutated packets, texts and HTTP through that binary (FUZZ_SECONDS=60, FUZZ_SEED=a new one)
	@BINARY=$(BUILD)/asan/tideway scripts/fuzz --seconds $$(($(or $(FUZZ_SECONDS),60) * 2 / 3)) \
		$(if $(FUZZ_SEED),--seed $(FUZZ_SEED))
	@BUILD=$(BUILD) scripts/fuzz-http --seconds $$(($(or $(FUZZ_SECONDS),60) / 3)) \
		$(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

# ---- install ----

bindir = $(DESTDIR)$(PREFIX)/bin
sharedir = $(DESTDIR)$(PREFIX)/share/tideway
mandir = $(DESTDIR)$(PREFIX)/share/man/man1
compdir = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/system

install: all ## install below PREFIX=/usr/local (DESTDIR= is put before it)
	install -d '$(bindir)' '$(sharedir)' '$(mandir)' '$(compdir)' '$(unitdir)'
	install -m 755 $(binary) '$(bindir)/tideway'
	rm -rf '$(sharedir)/lua' '$(sharedir)/examples' '$(sharedir)/service'
	cp -R --no-preserve=ownership lua examples scripts/service '$(sharedir)/'
	sed 's:/usr/local/:$(PREFIX)/:' 'scripts/service/tideway@.service' > '$(unitdir)/tideway@.service'
	$(binary) man > '$(mandir)/tideway.1'
	$(binary) completion bash > '$(compdir)/tideway'

uninstall: ## remove what install put there
	rm -f '$(bindir)/tideway' '$(mandir)/tideway.1' '$(compdir)/tideway' '$(unitdir)/tideway@.service'
	rm -rf '$(sharedir)'

clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
