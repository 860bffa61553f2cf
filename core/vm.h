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
	TW_VM_CHAIN, /* first chain function; one per chain of the lcore */
};

enum { TW_VM_NOBODY = TW_CHAINS_MAX * TW_STAGES_MAX };

struct tw_vm {
	lua_State *L;
	const struct tw_burst *burst;
	bool built;
	size_t used, limit;            /* bytes of Lua heap */
	size_t live[TW_VM_NOBODY + 1]; /* of used: by chain and NF that allocated */
	struct tw_block *blocks;
	struct tw_jit *jit;
};

/* The installed Lua tree: found beside the binary. NULL with tw_error() when it is not there. */
const char *tw_lua_root(void);
lua_State *tw_vm_control(void);

/* quarantine: one bit mask of stages per chain of the lcore. NULL on failure. */
struct tw_vm *tw_vm_new(const char *blob, size_t len, struct tw_burst *burst, uint32_t n_chains,
                        const uint32_t *quarantine);
void tw_vm_free(struct tw_vm *vm);
/* The NF (chain of the lcore, stage) that holds most memory; true when that is a good part of it.
 */
bool tw_vm_heaviest(const struct tw_vm *vm, unsigned *chain, unsigned *stage);
/* Free the memory of a VM that was left in the middle of something; no Lua code runs. */
void tw_vm_abandon(struct tw_vm *vm);
