/* SPDX-License-Identifier: BSD-3-Clause */
/* vm.c - the Lua VM of a worker, with a limit of its heap. */
#include "abi.h"
#include "error.h"
#include "vm.h"
#include "worker/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <lauxlib.h>

enum { SLOT_RUN = 1, SLOT_STOP };

#define RESERVE (1u << 20)

/* lua_Alloc: over the limit it returns NULL, and Lua raises "not enough memory"; then there is some
 * more, once, for what has to be done about that. */
static void *limited(void *ud, void *ptr, size_t osize, size_t nsize)
{
	struct worker *w = ud;
	void *mem;

	if (!ptr)
		osize = 0;
	if (nsize == 0) {
		w->heap -= osize;
		free(ptr);
		return NULL;
	}
	if (nsize > osize && w->heap_limit &&
	    w->heap + nsize - osize > w->heap_limit + w->reserve) {
		w->reserve = RESERVE;
		return NULL;
	}
	mem = realloc(ptr, nsize);
	if (mem)
		w->heap += nsize - osize;
	return mem;
}

static int traceback(lua_State *L)
{
	if (lua_isstring(L, 1))
		luaL_traceback(L, L, lua_tostring(L, 1), 1);
	return 1;
}

/* Calls what is on the stack. */
static int call(lua_State *L, int args, int results, const char *what)
{
	int at = lua_gettop(L) - args;
	const char *text;
	int rc;

	lua_pushcfunction(L, traceback);
	lua_insert(L, at);
	rc = lua_pcall(L, args, results, at);
	lua_remove(L, at);
	if (rc == 0)
		return 0;
	text = lua_tostring(L, -1);
	rc = tw_fail(rc == LUA_ERRMEM ? ENOMEM : EINVAL, "%s: %s", what,
	             text ? text : "it raised no string");
	lua_pop(L, 1);
	return rc;
}

/* Reads all of the engine's Lua files that a function may need. */
static int open_vm(lua_State *L)
{
	tw_vm_libs(L);
	lua_getglobal(L, "require");
	lua_pushliteral(L, "tideway.worker");
	lua_call(L, 1, 1);
	return 1;
}

int worker_vm_open(struct worker *w)
{
	w->L = tw_lua_root() ? lua_newstate(limited, w) : NULL;
	if (!w->L)
		return tw_fail(ENOMEM, "no memory for the VM of a worker");
	lua_pushcfunction(w->L, open_vm);
	return call(w->L, 0, 1, "the Lua files of the engine");
}

/* Calls tideway.worker.build(blob, address of struct tw_worker) -> run, stop. */
int worker_vm_build(struct worker *w)
{
	size_t len = w->task.blob_len;
	void *blob = mmap(NULL, len ? len : 1, PROT_READ, MAP_SHARED, w->blob, 0);
	int rc;

	close(w->blob);
	if (blob == MAP_FAILED)
		return tw_fail(errno, "a function of %zu bytes cannot be mapped", len);
	lua_getfield(w->L, 1, "build");
	lua_remove(w->L, 1);
	lua_pushlstring(w->L, blob, len);
	munmap(blob, len ? len : 1);
	lua_pushlightuserdata(w->L, &w->shared);
	rc = call(w->L, 2, 2, w->task.name);
	lua_gc(w->L, LUA_GCCOLLECT, 0);
	return rc;
}

int worker_vm_run(struct worker *w, uint32_t count)
{
	int rc;

	lua_pushvalue(w->L, SLOT_RUN);
	lua_pushinteger(w->L, count);
	rc = call(w->L, 1, 0, w->task.name);
	w->reserve = 0;
	return rc;
}

int worker_vm_full(struct worker *w)
{
	lua_gc(w->L, LUA_GCCOLLECT, 0);
	if (w->heap <= w->heap_limit / 8 * 7)
		return 0;
	return tw_fail(ENOMEM, "%s: its heap of %u MB is full: it keeps more than it lets go",
	               w->task.name, w->task.memory_mb);
}

void worker_vm_stop(struct worker *w)
{
	lua_pushvalue(w->L, SLOT_STOP);
	call(w->L, 0, 0, w->task.name);
}
