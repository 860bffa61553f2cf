/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inline.c - functions that run in gate threads: a Lua VM per thread, in which each service that
 * runs inline has its functions; and who notices when one of them does not return.
 *
 * An entry takes at most two numbers and gives no result; all else is in struct tw_inline, one per
 * service. (Interpreted code, which is what calls between C and Lua run in, is slow with C data.)
 * What functions have finished with by themselves (woken by a timer, an answer) is listed there,
 * and handed to flow.c when Lua has returned, so that nothing of the gate runs inside of Lua.
 */
#include "error.h"
#include "gate/flow.h"
#include "gate/inline_watch.h"
#include "vm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#define HOOK_COUNT 1000 /* interpreted instructions until a stuck function raises */
#define HEAP_MB 256

enum entry { RUN, TIMERS, ANSWERED, FORGET, STOP, ENTRIES };

struct inline_service {
	struct tw_inline shared;
	struct inline_vm *vm;
	struct gate_timer timer;
	int entry[ENTRIES]; /* in the registry */
	bool built;
	uint32_t faults; /* that were looked at */
	struct tw_member_board boards[TW_STAGES_MAX];
};

struct inline_vm {
	struct inline_watched watched; /* first */
	lua_State *L;
	struct gate *gate;
	size_t heap;
	volatile sig_atomic_t hooked;
	_Atomic(struct inline_service *) service[TW_SERVICES_MAX];
};

/* ---- a function that does not return ---- */

static void raise_stuck(lua_State *L, lua_Debug *ar)
{
	(void)ar;
	lua_sethook(L, NULL, 0, 0);
	luaL_error(L, "ran for more than 1 s, and all connections of its gate thread waited");
}

/* In a signal handler. The interpreter looks at the hook; a loop that is machine code does not, and
 * goes on. */
static void on_stuck(struct inline_watched *watched)
{
	struct inline_vm *vm = (struct inline_vm *)watched;

	vm->hooked = 1;
	lua_sethook(vm->L, raise_stuck, LUA_MASKCOUNT, HOOK_COUNT);
}

/* ---- the VM ---- */

/* lua_Alloc: over the limit it returns NULL, and Lua raises "not enough memory". */
static void *limited(void *ud, void *ptr, size_t osize, size_t nsize)
{
	struct inline_vm *vm = ud;
	void *mem;

	if (!ptr)
		osize = 0;
	if (nsize == 0) {
		vm->heap -= osize;
		free(ptr);
		return NULL;
	}
	if (nsize > osize && vm->heap + nsize - osize > (size_t)HEAP_MB << 20)
		return NULL;
	mem = realloc(ptr, nsize);
	if (mem)
		vm->heap += nsize - osize;
	return mem;
}

static int open_vm(lua_State *L)
{
	tw_vm_libs(L);
	return 0;
}

static struct inline_vm *vm_of(struct gate *gate)
{
	struct inline_vm *vm = gate->vm;

	if (vm)
		return vm;
	vm = calloc(1, sizeof(*vm));
	if (vm)
		vm->L = lua_newstate(limited, vm);
	if (!vm || !vm->L) {
		free(vm);
		tw_fail(ENOMEM, "no memory for the VM of a gate thread");
		return NULL;
	}
	vm->gate = gate;
	vm->watched = (struct inline_watched){ .gate = gate, .stuck = on_stuck };
	lua_pushcfunction(vm->L, open_vm);
	if (lua_pcall(vm->L, 0, 0, 0) != 0) {
		tw_fail(EINVAL, "the VM of a gate thread: %s", lua_tostring(vm->L, -1));
	} else if (inline_watch_begin(&vm->watched) == 0) {
		gate->vm = vm;
		return vm;
	}
	lua_close(vm->L);
	free(vm);
	return NULL;
}

static int failed(lua_State *L, const char *what)
{
	const char *text = lua_tostring(L, -1);
	int err = tw_fail(EINVAL, "%s: %s", what, text ? text : "raised no string");

	lua_pop(L, 1);
	return err;
}

/* They are counted on the boards; the log has them now and then. */
static void say_fault(struct inline_service *s)
{
	s->shared.fault[sizeof(s->shared.fault) - 1] = 0;
	gate_say(s->vm->gate, TW_LOG_ERROR "%s", s->shared.fault);
	s->faults = s->shared.faults;
}

/* One call into Lua. What it raises is the engine's own fault: functions' are caught inside.
 * RUN: with `n` messages. */
static int enter(struct inline_service *s, enum entry entry, unsigned n)
{
	struct inline_vm *vm = s->vm;
	lua_State *L = vm->L;
	int rc;

	inline_watch_enter(&vm->watched, &s->shared);
	lua_rawgeti(L, LUA_REGISTRYINDEX, s->entry[entry]);
	lua_pushinteger(L, (lua_Integer)n);
	lua_pushnumber(L, (lua_Number)tw_now());
	rc = lua_pcall(L, 2, 0, 0);
	inline_watch_leave(&vm->watched);
	if (vm->hooked) {
		vm->hooked = 0;
		lua_sethook(L, NULL, 0, 0);
	}
	s->shared.function = TW_INLINE_NOBODY;
	if (s->shared.faults != s->faults)
		say_fault(s);
	if (rc == 0)
		return 0;
	rc = failed(L, "inline functions");
	tw_log("%s", tw_error());
	return rc;
}

static void fire(struct gate *gate, struct gate_timer *timer);

/* What has come to an end in there goes on; the next timer. */
static void settle(struct gate *gate, struct inline_service *s)
{
	struct service *service = gate->service[s->shared.service];
	struct tw_desc out[TW_INLINE_OUT];
	uint32_t n = s->shared.n_out;
	uint64_t due = s->shared.next_due;

	if (due != s->timer.due) {
		if (due)
			gate_timer_set(gate, &s->timer, due);
		else
			gate_timer_cancel(gate, &s->timer);
	}
	if (!n)
		return;
	if (n > TW_INLINE_OUT)
		n = TW_INLINE_OUT;
	memcpy(out, s->shared.out, n * sizeof(*out));
	s->shared.n_out = 0;
	for (uint32_t i = 0; i < n && service; i++) {
		if (out[i].exit == TW_INLINE_FETCH)
			flow_inline_fetch(gate, service, out[i].handle);
		else
			flow_inline_done(gate, service, out[i].handle);
	}
}

static void fire(struct gate *gate, struct gate_timer *timer)
{
	struct inline_service *s =
		(struct inline_service *)((char *)timer - offsetof(struct inline_service, timer));

	s->shared.now = gate->now;
	s->timer.due = 0;
	enter(s, TIMERS, 0);
	settle(gate, s);
}

/* ---- building ---- */

static struct inline_service *service_of(struct inline_vm *vm, uint32_t index)
{
	struct inline_service *s = atomic_load(&vm->service[index]);

	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->vm = vm;
	s->timer.fire = fire;
	s->shared.boards = s->boards;
	s->shared.member = vm->gate->id;
	s->shared.service = index;
	s->shared.function = TW_INLINE_NOBODY;
	atomic_store(&vm->service[index], s);
	return s;
}

static void unref(struct inline_service *s)
{
	for (int i = 0; s->built && i < ENTRIES; i++)
		luaL_unref(s->vm->L, LUA_REGISTRYINDEX, s->entry[i]);
	s->built = false;
}

struct build_args {
	struct inline_service *service;
	const char *blob;
	size_t len;
};

/* Calls tideway.message.inline.build(blob, address) -> the entries. */
static int build(lua_State *L)
{
	const struct build_args *args = lua_touserdata(L, 1);

	lua_settop(L, 0);
	lua_getglobal(L, "require");
	lua_pushliteral(L, "tideway.message.inline");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "build");
	lua_pushlstring(L, args->blob, args->len);
	lua_pushlightuserdata(L, &args->service->shared);
	lua_call(L, 2, ENTRIES);
	return ENTRIES;
}

static int rebuild(struct inline_service *s, const char *blob, size_t len)
{
	struct build_args args = { s, blob, len };
	lua_State *L = s->vm->L;

	lua_pushcfunction(L, build);
	lua_pushlightuserdata(L, &args);
	if (lua_pcall(L, 1, ENTRIES, 0) != 0)
		return failed(L, "functions of a gate thread");
	if (!s->built)
		memset(s->boards, 0, sizeof(s->boards)); /* another service had this number */
	unref(s);
	for (int i = ENTRIES - 1; i >= 0; i--)
		s->entry[i] = luaL_ref(L, LUA_REGISTRYINDEX);
	s->built = true;
	settle(s->vm->gate, s);
	return 0;
}

int inline_load(struct gate *gate, uint32_t service, const char *blob, size_t len)
{
	struct inline_vm *vm = gate->vm;
	struct inline_service *s;

	if (service >= TW_SERVICES_MAX)
		return tw_fail(EINVAL, "there is no service %u", service);
	if (len == 0) {
		s = vm ? atomic_load(&vm->service[service]) : NULL;
		if (!s || !s->built)
			return 0;
		enter(s, STOP, 0);
		gate_timer_cancel(gate, &s->timer);
		s->shared.next_due = 0;
		unref(s);
		return 0;
	}
	if (!gate->service[service])
		return tw_fail(ENOENT, "functions for service %u, which is not there", service);
	vm = vm_of(gate);
	s = vm ? service_of(vm, service) : NULL;
	if (!s)
		return vm ? tw_fail(ENOMEM, "no memory for inline functions") : -ENOMEM;
	s->shared.pool = gate->service[service]->pool;
	return rebuild(s, blob, len);
}

/* ---- calls ---- */

static struct inline_service *built(struct gate *gate, const struct service *service)
{
	struct inline_vm *vm = gate->vm;
	struct inline_service *s = vm ? atomic_load_explicit(&vm->service[service->index],
	                                                     memory_order_relaxed)
	                              : NULL;

	return s && s->built ? s : NULL;
}

void inline_run(struct gate *gate, struct service *service, uint32_t function,
                const tw_handle *messages, unsigned n, int8_t *result)
{
	struct inline_service *s = built(gate, service);

	memset(result, TW_INLINE_STALE, n);
	if (!s)
		return;
	for (unsigned i = 0; i < n; i++)
		s->shared.in[i].handle = messages[i];
	memset(s->shared.result, TW_INLINE_HELD, n);
	s->shared.first = function;
	if (enter(s, RUN, n) < 0)
		return;
	memcpy(result, s->shared.result, n);
	if (s->shared.n_out || s->shared.next_due != s->timer.due)
		settle(gate, s);
}

void inline_answered(struct gate *gate, struct service *service, tw_handle answer)
{
	struct inline_service *s = built(gate, service);

	if (!s)
		return;
	s->shared.in[0] = (struct tw_desc){ .handle = answer };
	enter(s, ANSWERED, 1);
	settle(gate, s);
}

void inline_forget(struct gate *gate, struct service *service, tw_handle message)
{
	struct inline_service *s = built(gate, service);

	if (!s)
		return;
	s->shared.in[0] = (struct tw_desc){ .handle = message };
	enter(s, FORGET, 1);
	settle(gate, s);
}

/* ---- figures, end ---- */

void inline_boards(struct gate *gate, uint32_t service, struct tw_member_board *boards)
{
	struct inline_vm *vm = gate->vm;
	struct inline_service *s = vm && service < TW_SERVICES_MAX
	                                   ? atomic_load(&vm->service[service])
	                                   : NULL;

	if (!s)
		return;
	for (uint32_t f = 0; f < TW_STAGES_MAX; f++) {
		const uint64_t *from = (const uint64_t *)&s->boards[f];
		uint64_t *to = (uint64_t *)&boards[f];

		for (size_t i = 0; i < sizeof(*boards) / sizeof(*to); i++)
			to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	}
}

void inline_free(struct gate *gate)
{
	struct inline_vm *vm = gate->vm;

	if (!vm)
		return;
	for (uint32_t i = 0; i < TW_SERVICES_MAX; i++)
		inline_load(gate, i, NULL, 0);
	inline_watch_end(&vm->watched);
	gate->vm = NULL;
	lua_close(vm->L);
	for (uint32_t i = 0; i < TW_SERVICES_MAX; i++)
		free(atomic_load(&vm->service[i]));
	free(vm);
}
