/* SPDX-License-Identifier: BSD-3-Clause */
/* vm.h - Lua VMs: the control VM and one VM per lcore with a heap limit. */
#pragma once
#include "abi.h"

#include <lua.h>

/* Positions on the stack of an lcore VM, fixed so that an entry is one push and one call. */
enum tw_vm_slot {
	TW_VM_RESUME = 1, /* runs packets without a verdict from their resume stage */
	TW_VM_PUNT,       /* runs punt() of packets that ask for it */
	TW_VM_TICK,
	TW_VM_STOP,
	TW_VM_EXPORT, /* (chain, stage): the state of an NF as a string, or nil */
	TW_VM_IMPORT, /* (chain, stage, address, length of such a string) */
	TW_VM_CHAIN,  /* first chain function; one per chain of the lcore */
};

enum { TW_VM_NOBODY = TW_CHAINS_MAX * TW_STAGES_MAX };

struct tw_vm {
	lua_State *L;
	const struct tw_burst *burst;
	bool built;
	bool torn; /* left in the middle of something: no Lua code may run */
	struct tw_vm *next_dead;
	size_t used, limit;            /* bytes of Lua heap */
	size_t live[TW_VM_NOBODY + 1]; /* of used: by chain and NF that allocated */
	struct tw_block *blocks;
	struct tw_jit *jit;
};

/* The installed Lua tree: found beside the binary. NULL with tw_error() when it is not there. */
const char *tw_lua_root(void);
lua_State *tw_vm_control(void);
/* The standard library, and where the engine's own is found. */
void tw_vm_libs(lua_State *L);
void tw_vm_limit_init(lua_State *L); /* vm_limit.c: tw_control_memory() works from here on */

/* What a VM is built from. */
struct tw_vm_source {
	const char *blob;
	size_t len;
	struct tw_burst *burst;
	uint32_t n_chains;
	const uint32_t *quarantine; /* one bit mask of stages per chain of the lcore */
	uint32_t bank;              /* of native words */
};

/* NULL on failure. */
struct tw_vm *tw_vm_new(const struct tw_vm_source *source);
/* A torn one is freed block by block, its machine code too. */
void tw_vm_free(struct tw_vm *vm);
/* The NF (chain of the lcore, stage) that holds most memory; true when that is a good part of it.
 */
bool tw_vm_heaviest(const struct tw_vm *vm, unsigned *chain, unsigned *stage);
/* The string that a call left on the stack, NULL: it is none; there until it is done with. */
const char *tw_vm_result(struct tw_vm *vm, size_t *len);
void tw_vm_result_done(struct tw_vm *vm);

/* mcode.c: gives machine code back that LuaJIT has mapped for the state at this address. */
void tw_mcode_free(const void *state, size_t size);
