/* SPDX-License-Identifier: BSD-3-Clause */
/* vm.c - Lua VMs: the control VM and one VM per lcore with a heap limit. */
#include "vm.h"
#include "error.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

extern const char tw_abi_cdef[], tw_abi_hash[];

/* Every block of an lcore VM is on a list, so that an abandoned VM can be freed without it, and
 * knows which NF asked for it, so that a full heap can be blamed on the one that fills it. */
struct tw_block {
	struct tw_block *prev, *next;
	uint32_t size;
	uint32_t owner; /* index in tw_vm.live */
};

static void block_link(struct tw_vm *vm, struct tw_block *block)
{
	block->prev = NULL;
	block->next = vm->blocks;
	if (vm->blocks)
		vm->blocks->prev = block;
	vm->blocks = block;
	vm->used += block->size;
	vm->live[block->owner] += block->size;
}

static void block_unlink(struct tw_vm *vm, struct tw_block *block)
{
	if (block->prev)
		block->prev->next = block->next;
	else
		vm->blocks = block->next;
	if (block->next)
		block->next->prev = block->prev;
	vm->used -= block->size;
	vm->live[block->owner] -= block->size;
}

/* Who asks: the NF that runs, or nobody while the VM is being built. */
static uint32_t owner_now(const struct tw_vm *vm)
{
	unsigned chain = vm->burst->chain, stage = vm->burst->stage;

	if (!vm->built || chain >= TW_CHAINS_MAX || stage >= TW_STAGES_MAX)
		return TW_VM_NOBODY;
	return chain * TW_STAGES_MAX + stage;
}

/* lua_Alloc: over the limit it returns NULL, and Lua raises "not enough memory". */
static void *vm_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
	struct tw_block *block = ptr ? (struct tw_block *)ptr - 1 : NULL, *moved;
	struct tw_vm *vm = ud;

	if (nsize == 0) {
		if (block) {
			block_unlink(vm, block);
			free(block);
		}
		return NULL;
	}
	if (!block)
		osize = 0;
	if ((nsize > osize && vm->used + nsize - osize > vm->limit) || nsize > UINT32_MAX)
		return NULL;
	if (block)
		block_unlink(vm, block);
	moved = realloc(block, sizeof(*block) + nsize);
	if (!moved) {
		if (block)
			block_link(vm, block);
		return NULL;
	}
	moved->size = nsize;
	moved->owner = owner_now(vm);
	block_link(vm, moved);
	return moved + 1;
}

bool tw_vm_heaviest(const struct tw_vm *vm, unsigned *chain, unsigned *stage)
{
	unsigned best = 0;

	for (unsigned i = 1; i < TW_VM_NOBODY; i++)
		if (vm->live[i] > vm->live[best])
			best = i;
	*chain = best / TW_STAGES_MAX;
	*stage = best % TW_STAGES_MAX;
	return vm->live[best] > vm->limit / 8;
}

const char *tw_lua_root(void)
{
	static char root[PATH_MAX];
	static const char *const places[] = { "../lua", "../share/tideway/lua", "../../lua" };
	char exe[PATH_MAX - 64], probe[PATH_MAX];
	const char *env = getenv("TIDEWAY_LUA");
	ssize_t len;

	if (root[0])
		return root;
	if (env) {
		snprintf(root, sizeof(root), "%s", env);
		return root;
	}
	len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (len <= 0)
		return NULL;
	exe[len] = '\0';
	*strrchr(exe, '/') = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(probe, sizeof(probe), "%s/%s", exe, places[i]);
		if (!realpath(probe, root))
			continue;
		snprintf(probe, sizeof(probe), "%.*s/tideway/init.lua", PATH_MAX - 32, root);
		if (access(probe, R_OK) == 0)
			return root;
	}
	root[0] = '\0';
	tw_fail(ENOENT,
	        "the Lua half of Tideway is not at %s/../lua nor %s/../share/tideway/lua; set TIDEWAY_LUA",
	        exe, exe);
	return NULL;
}

/* require "tideway.core": what only C knows. */
static int open_core(lua_State *L)
{
	lua_createtable(L, 0, 4);
	lua_pushstring(L, tw_abi_cdef);
	lua_setfield(L, -2, "cdef");
	lua_pushstring(L, tw_abi_hash);
	lua_setfield(L, -2, "abi_hash");
	lua_pushinteger(L, TW_ABI_VERSION);
	lua_setfield(L, -2, "abi_version");
	lua_pushstring(L, tw_lua_root());
	lua_setfield(L, -2, "root");
	return 1;
}

void tw_vm_libs(lua_State *L)
{
	const char *root = tw_lua_root();

	luaL_openlibs(L);
	lua_getglobal(L, "package");
	lua_getfield(L, -1, "preload");
	lua_pushcfunction(L, open_core);
	lua_setfield(L, -2, "tideway.core");
	lua_pop(L, 1);
	lua_getfield(L, -1, "path");
	lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", root, root, lua_tostring(L, -1));
	lua_setfield(L, -3, "path");
	lua_pop(L, 2);
}

lua_State *tw_vm_control(void)
{
	lua_State *L;

	if (!tw_lua_root())
		return NULL;
	L = luaL_newstate();
	if (!L) {
		tw_fail(ENOMEM, "no memory for the control VM");
		return NULL;
	}
	tw_vm_limit_init(L);
	tw_vm_libs(L);
	return L;
}

struct build_args {
	struct tw_vm *vm;
	const struct tw_vm_source *source;
};

/* Calls tideway.lcore.build(blob, burst address, jit address, quarantine, bank) -> resume, punt,
 * tick, stop, export, import, chain functions..., which stay on the stack. */
static int build(lua_State *L)
{
	const struct build_args *args = lua_touserdata(L, 1);
	const struct tw_vm_source *source = args->source;

	lua_settop(L, 0);
	tw_vm_libs(L);
	lua_getglobal(L, "require");
	lua_pushliteral(L, "tideway.lcore");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "build");
	lua_remove(L, 1);
	lua_pushlstring(L, source->blob, source->len);
	lua_pushnumber(L, (lua_Number)(uintptr_t)source->burst);
	lua_pushnumber(L, (lua_Number)(uintptr_t)args->vm->jit);
	lua_createtable(L, source->n_chains, 0);
	for (uint32_t i = 0; i < source->n_chains; i++) {
		lua_pushnumber(L, source->quarantine[i]);
		lua_rawseti(L, -2, i + 1);
	}
	lua_pushnumber(L, source->bank);
	lua_call(L, 5, TW_VM_CHAIN - 1 + source->n_chains);
	return TW_VM_CHAIN - 1 + source->n_chains;
}

struct tw_vm *tw_vm_new(const struct tw_vm_source *source)
{
	struct tw_vm *vm = calloc(1, sizeof(*vm));
	struct build_args args = { vm, source };

	if (vm)
		vm->jit = calloc(1, sizeof(*vm->jit));
	if (vm && vm->jit) {
		vm->burst = source->burst;
		vm->limit = (size_t)tw_options()->vm_memory_mb << 20;
		vm->L = lua_newstate(vm_alloc, vm);
	}
	if (!vm || !vm->L) {
		tw_vm_free(vm);
		tw_fail(ENOMEM, "no memory for an lcore VM");
		return NULL;
	}
	lua_pushcfunction(vm->L, build);
	lua_pushlightuserdata(vm->L, &args);
	if (lua_pcall(vm->L, 1, TW_VM_CHAIN - 1 + source->n_chains, 0) != 0) {
		const char *text = lua_tostring(vm->L, -1);

		tw_fail(EINVAL, "%s", text ? text : "an lcore VM could not be built");
		tw_vm_free(vm);
		return NULL;
	}
	vm->built = true;
	return vm;
}

const char *tw_vm_result(struct tw_vm *vm, size_t *len)
{
	return lua_tolstring(vm->L, -1, len);
}

void tw_vm_result_done(struct tw_vm *vm)
{
	lua_pop(vm->L, 1);
}

static void abandon(struct tw_vm *vm)
{
	struct tw_block *block = vm->blocks;

	/* LuaJIT allocates its state first, and as one block with the main thread in front. */
	if (vm->L)
		tw_mcode_free(vm->L, ((const struct tw_block *)vm->L - 1)->size);
	while (block) {
		struct tw_block *next = block->next;

		free(block);
		block = next;
	}
}

void tw_vm_free(struct tw_vm *vm)
{
	if (!vm)
		return;
	if (vm->torn || !vm->L)
		abandon(vm);
	else
		lua_close(vm->L);
	free(vm->jit);
	free(vm);
}
