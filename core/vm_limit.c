/* SPDX-License-Identifier: BSD-3-Clause */
/* vm_limit.c - how much more memory the control VM may take, for what users evaluate in it. */
#include "abi.h"
#include "vm.h"

#include <lua.h>

static struct {
	lua_Alloc alloc; /* LuaJIT's own */
	void *ud;
	size_t used, limit;
} control;

static void *limited(void *ud, void *ptr, size_t osize, size_t nsize)
{
	void *mem;

	(void)ud;
	if (nsize > osize && control.limit && control.used - osize + nsize > control.limit)
		return NULL;
	mem = control.alloc(control.ud, ptr, osize, nsize);
	if (mem || !nsize)
		control.used += nsize - osize;
	return mem;
}

void tw_vm_limit_init(lua_State *L)
{
	control.alloc = lua_getallocf(L, &control.ud);
	control.used = (size_t)lua_gc(L, LUA_GCCOUNT, 0) << 10;
	lua_setallocf(L, limited, NULL);
}

uint64_t tw_control_memory(uint64_t more)
{
	uint64_t left = control.limit > control.used ? control.limit - control.used : 0;

	control.limit = more ? control.used + more : 0;
	return left;
}
