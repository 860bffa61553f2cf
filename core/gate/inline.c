/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inline.c - functions that run in gate threads: a Lua VM per thread, in which each service that
 * runs inline has its functions; and who notices when one of them does not return.
 *
 * An entry takes no argument and gives no result: both are in struct tw_inline, one per service.
 * What functions have finished with by themselves (woken by a timer, an answer) is listed there,
 * and handed to flow.c when Lua has returned, so that nothing of the gate runs inside of Lua.
 */
#include "error.h"
#include "gate/flow.h"
#include "vm.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lauxlib.h>

#define STUCK_SIGNAL (SIGRTMIN + 5)
#define LOOK_NS 1000000000 /* between two looks at threads that run functions */
#define HOOK_COUNT 1000    /* interpreted instructions until a stuck function raises */
#define HEAP_MB 256

enum entry { RUN, TIMERS, ANSWERED, FORGET, STOP, ENTRIES };

struct inline_service {
	struct tw_inline shared;
	struct inline_vm *vm;
	struct gate_timer timer;
	int entry[ENTRIES]; /* in the registry */
	bool built;
	struct tw_member_board boards[TW_STAGES_MAX];
};

struct inline_vm {
	lua_State *L;
	struct gate *gate;
	pthread_t thread;
	size_t heap;
	volatile sig_atomic_t hooked;
	_Atomic uint64_t entries; /* odd: in Lua */
	_Atomic(struct inline_service *) now;
	_Atomic(struct inline_service *) service[TW_SERVICES_MAX];
	/* the watch's */
	uint64_t seen, stuck_since;
	struct inline_vm *next;
};

/* ---- a function that does not return ---- */

static struct {
	pthread_mutex_t lock;
	struct inline_vm *vms;
	bool runs;
	_Atomic bool asleep; /* nothing has run since the last look: an entry wakes it */
	sem_t wake;
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct inline_vm *own;

static void raise_stuck(lua_State *L, lua_Debug *ar)
{
	(void)ar;
	lua_sethook(L, NULL, 0, 0);
	luaL_error(L, "ran for more than 1 s, and all connections of its gate thread waited");
}

/* In the thread that is stuck. The interpreter looks at the hook; a loop that is machine code does
 * not, and goes on. */
static void on_stuck(int sig)
{
	int err = errno;

	(void)sig;
	if (own && (atomic_load(&own->entries) & 1) && atomic_load(&own->entries) == own->seen) {
		own->hooked = 1;
		lua_sethook(own->L, raise_stuck, LUA_MASKCOUNT, HOOK_COUNT);
	}
	errno = err;
}

static void report(struct inline_vm *vm, uint64_t seconds)
{
	struct inline_service *s = atomic_load(&vm->now);
	uint32_t function = s ? s->shared.function : TW_INLINE_NOBODY;
	const struct service *service = s ? vm->gate->service[s->shared.service] : NULL;

	if (service && function < service->spec.n_functions)
		tw_log("gate thread %u: function \"%s\" of chain \"%s\" has not returned for %llu s, and all "
		       "connections of the thread wait",
		       vm->gate->id, service->spec.function[function].name, service->spec.name,
		       (unsigned long long)seconds);
}

/* True: something has run. */
static bool look(struct inline_vm *vm, uint64_t now)
{
	uint64_t entries = atomic_load(&vm->entries), seconds;

	if (entries != vm->seen) {
		vm->seen = entries;
		vm->stuck_since = now;
		return true;
	}
	if (!(entries & 1))
		return false;
	seconds = (now - vm->stuck_since) / 1000000000;
	if (seconds && (seconds & (seconds - 1)) == 0)
		report(vm, seconds);
	if (seconds)
		pthread_kill(vm->thread, STUCK_SIGNAL);
	return true;
}

static void *watch_main(void *arg)
{
	struct timespec nap = { LOOK_NS / 1000000000, LOOK_NS % 1000000000 };

	(void)arg;
	pthread_setname_np(pthread_self(), "tw-inline-watch");
	for (;;) {
		bool busy = false;

		nanosleep(&nap, NULL);
		atomic_store(&watch.asleep, true);
		pthread_mutex_lock(&watch.lock);
		for (struct inline_vm *vm = watch.vms; vm; vm = vm->next)
			busy |= look(vm, tw_now());
		pthread_mutex_unlock(&watch.lock);
		if (!busy)
			while (sem_wait(&watch.wake) < 0 && errno == EINTR)
				;
		atomic_store(&watch.asleep, false);
	}
	return NULL;
}

static int watch_start(struct inline_vm *vm)
{
	struct sigaction sa = { .sa_handler = on_stuck, .sa_flags = SA_RESTART };
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t set;
	int err = 0;

	sigemptyset(&set);
	sigaddset(&set, STUCK_SIGNAL);
	pthread_mutex_lock(&watch.lock);
	if (!watch.runs) {
		sem_init(&watch.wake, 0, 0);
		sigaction(STUCK_SIGNAL, &sa, NULL);
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		err = pthread_create(&thread, &attr, watch_main, NULL);
		pthread_attr_destroy(&attr);
		watch.runs = !err;
	}
	if (!err) {
		own = vm;
		vm->thread = pthread_self();
		vm->next = watch.vms;
		watch.vms = vm;
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	}
	pthread_mutex_unlock(&watch.lock);
	return err ? tw_fail(err, "no thread to watch over inline functions: %s", strerror(err))
	           : 0;
}

static void watch_end(struct inline_vm *vm)
{
	struct inline_vm **at = &watch.vms;

	pthread_mutex_lock(&watch.lock);
	while (*at && *at != vm)
		at = &(*at)->next;
	if (*at)
		*at = vm->next;
	pthread_mutex_unlock(&watch.lock);
	own = NULL;
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
	lua_pushcfunction(vm->L, open_vm);
	if (lua_pcall(vm->L, 0, 0, 0) != 0) {
		tw_fail(EINVAL, "the VM of a gate thread: %s", lua_tostring(vm->L, -1));
	} else if (watch_start(vm) == 0) {
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

/* One call into Lua. What it raises is the engine's own fault: functions' are caught inside. */
static int enter(struct inline_service *s, enum entry entry)
{
	struct inline_vm *vm = s->vm;
	uint64_t entries = atomic_load_explicit(&vm->entries, memory_order_relaxed);
	lua_State *L = vm->L;
	int rc;

	atomic_store_explicit(&vm->now, s, memory_order_relaxed);
	atomic_store_explicit(&vm->entries, entries + 1, memory_order_release);
	if (atomic_load_explicit(&watch.asleep, memory_order_relaxed) &&
	    atomic_exchange(&watch.asleep, false))
		sem_post(&watch.wake);
	lua_rawgeti(L, LUA_REGISTRYINDEX, s->entry[entry]);
	rc = lua_pcall(L, 0, 0, 0);
	atomic_store_explicit(&vm->entries, entries + 2, memory_order_release);
	if (vm->hooked) {
		vm->hooked = 0;
		lua_sethook(L, NULL, 0, 0);
	}
	s->shared.function = TW_INLINE_NOBODY;
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
	enter(s, TIMERS);
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
	unref(s);
	for (int i = ENTRIES - 1; i >= 0; i--)
		s->entry[i] = luaL_ref(L, LUA_REGISTRYINDEX);
	s->built = true;
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
		enter(s, STOP);
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

int inline_run(struct gate *gate, struct service *service, uint32_t function, struct tw_msg *msg)
{
	struct inline_service *s = built(gate, service);
	int result;

	if (!s)
		return -ENOENT;
	s->shared.in[0] = (struct tw_desc){ .handle = msg->self };
	s->shared.first = function;
	if (enter(s, RUN) < 0)
		return -EIO;
	result = s->shared.result;
	if (s->shared.n_out || s->shared.next_due != s->timer.due)
		settle(gate, s);
	return result < 0 ? -ESTALE : result;
}

void inline_answered(struct gate *gate, struct service *service, tw_handle answer)
{
	struct inline_service *s = built(gate, service);

	if (!s)
		return;
	s->shared.in[0] = (struct tw_desc){ .handle = answer };
	enter(s, ANSWERED);
	settle(gate, s);
}

void inline_forget(struct gate *gate, struct service *service, tw_handle message)
{
	struct inline_service *s = built(gate, service);

	if (!s)
		return;
	s->shared.in[0] = (struct tw_desc){ .handle = message };
	enter(s, FORGET);
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
	watch_end(vm);
	gate->vm = NULL;
	lua_close(vm->L);
	for (uint32_t i = 0; i < TW_SERVICES_MAX; i++)
		free(atomic_load(&vm->service[i]));
	free(vm);
}
