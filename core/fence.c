/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fence.c - the fence around Lua on an lcore: an NF that raises, eats memory, writes through a
 * wild pointer or loops for ever costs its own packets their policy, never the engine.
 *
 * A raise and an exhausted heap come back through lua_pcall. An endless loop is found by the
 * watchdog thread, which measures CPU time (not wall time: a thread the kernel has taken off its
 * CPU is not stalled; watchdog.c). It first asks for a Lua hook, which ends interpreted code with
 * its line; machine code of LuaJIT never looks at hooks, so next the signal handler jumps out. It
 * does so only when the interrupted instruction is LuaJIT's own code or machine code of a trace:
 * there no lock of C code can be held. The VM is then in an unknown state and is abandoned whole.
 */
#include "error.h"
#include "lcore.h"
#include "native.h"
#include "table.h"
#include "watchdog.h"

#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <lauxlib.h>

#define ALT_STACK (64 * 1024)

static uintptr_t luajit_start, luajit_end;

/* ---- where is the program counter? ---- */

struct lookup {
	uintptr_t pc, start, end;
	bool found;
};

static int find_object(struct dl_phdr_info *info, size_t size, void *data)
{
	struct lookup *lookup = data;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X) || lookup->pc < start ||
		    lookup->pc >= start + ph->p_memsz)
			continue;
		lookup->start = start;
		lookup->end = start + ph->p_memsz;
		lookup->found = true;
		return 1;
	}
	return 0;
}

/* LuaJIT's library, or no library at all: machine code of a trace. dl_iterate_phdr takes a lock
 * of the loader, so the handler uses the table of objects taken at start. */
#define OBJECTS_MAX 512
static struct {
	uintptr_t start, end;
} objects[OBJECTS_MAX];
static unsigned n_objects;

static int note_object(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size;
	(void)data;
	/* Machine code of chains (native.c) may be left at any time, and be there already. */
	if (!strncmp(info->dlpi_name, TW_NATIVE_PATH, strlen(TW_NATIVE_PATH)))
		return 0;
	for (int i = 0; i < info->dlpi_phnum && n_objects < OBJECTS_MAX; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		objects[n_objects].start = info->dlpi_addr + ph->p_vaddr;
		objects[n_objects++].end = info->dlpi_addr + ph->p_vaddr + ph->p_memsz;
	}
	return 0;
}

static bool in_luajit(uintptr_t pc)
{
	return pc >= luajit_start && pc < luajit_end;
}

static bool in_lua_code(uintptr_t pc)
{
	if (in_luajit(pc))
		return true;
	for (unsigned i = 0; i < n_objects; i++)
		if (pc >= objects[i].start && pc < objects[i].end)
			return false;
	return true;
}

/* ---- signals, on the lcore's own thread ---- */

/* Runs every HOOK_COUNT interpreted instructions once the entry has used up its time. It grants a
 * little more: the time may have gone into the collector, which is not this NF's fault. */
#define HOOK_COUNT 200

static void raise_hook(lua_State *L, lua_Debug *ar)
{
	struct tw_lcore *lcore = tw_self;

	(void)ar;
	if (tw_cpu_time(lcore->cpu_clock) - lcore->hooked < lcore->grace_ns)
		return;
	lua_sethook(L, NULL, 0, 0);
	luaL_error(L, "ran for more than %d ms of CPU time in one burst", (int)lcore->late_ms);
}

static void on_stall(int sig, siginfo_t *si, void *context)
{
	struct tw_lcore *lcore = tw_self;
	const ucontext_t *uc = context;
	uint64_t seq;

	(void)sig;
	(void)si;
	if (!lcore)
		return;
	seq = atomic_load_explicit(&lcore->seq, memory_order_relaxed);
	if (!(seq & 1) || seq != atomic_load_explicit(&lcore->stall_seq, memory_order_relaxed))
		return; /* it came back in the meantime */
	if (atomic_load_explicit(&lcore->phase, memory_order_relaxed) == TW_FENCE_HOOK) {
		if (!lcore->hooked) {
			lcore->hooked = tw_cpu_time(lcore->cpu_clock);
			lua_sethook(lcore->plan->vm->L, raise_hook, LUA_MASKCOUNT, HOOK_COUNT);
		}
		return;
	}
	lcore->fault_pc = uc->uc_mcontext.gregs[REG_RIP];
	if (!in_lua_code(lcore->fault_pc))
		return; /* inside C code that may hold a lock: the watchdog asks again */
	lcore->fault_signal = 0;
	siglongjmp(lcore->jump, 1);
}

static void on_crash(int sig, siginfo_t *si, void *context)
{
	struct tw_lcore *lcore = tw_self;
	const ucontext_t *uc = context;

	(void)si;
	if (lcore && (atomic_load_explicit(&lcore->seq, memory_order_relaxed) & 1) &&
	    in_lua_code(uc->uc_mcontext.gregs[REG_RIP])) {
		lcore->fault_pc = uc->uc_mcontext.gregs[REG_RIP];
		lcore->fault_signal = sig;
		siglongjmp(lcore->jump, 1);
	}
	/* Not ours: let it do what it would have done. */
	signal(sig, SIG_DFL);
	raise(sig);
}

void tw_fence_thread_init(void)
{
	static _Thread_local char stack[ALT_STACK];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };

	sigaltstack(&ss, NULL);
}

int tw_fence_start(void)
{
	struct lookup lookup = { .pc = (uintptr_t)lua_pcall };
	struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };

	if (tw_watchdog_runs())
		return 0;
	dl_iterate_phdr(find_object, &lookup);
	luajit_start = lookup.start;
	luajit_end = lookup.end;
	n_objects = 0;
	dl_iterate_phdr(note_object, NULL);
	sa.sa_sigaction = on_stall;
	sigaction(TW_STALL_SIGNAL, &sa, NULL);
	sa.sa_sigaction = on_crash;
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
	return tw_watchdog_start();
}

void tw_fence_stop(void)
{
	tw_watchdog_stop();
}

/* ---- entry and recovery ---- */

static const char *trace_at(const struct tw_jit *jit, uint64_t pc)
{
	for (unsigned i = 0; i < TW_TRACES_MAX; i++)
		if (pc >= jit->trace[i].start && pc < jit->trace[i].end)
			return jit->trace[i].where;
	return NULL;
}

static void describe_jump(struct tw_lcore *lcore)
{
	const char *where = trace_at(lcore->plan->vm->jit, lcore->fault_pc);

	if (lcore->fault_signal)
		snprintf(lcore->fault, sizeof(lcore->fault), "%s%smemory fault (%s)",
		         where ? where : "", where ? ": " : "", strsignal(lcore->fault_signal));
	else
		snprintf(lcore->fault, sizeof(lcore->fault),
		         "%s%sran for more than %u ms of CPU time in one burst", where ? where : "",
		         where ? ": " : "", lcore->late_ms);
}

/* Whom to blame: the NF that ran. But the garbage collector runs in whoever allocates next, so
 * when memory is the trouble it is the NF that holds most of it. An interpreted loop ends by the
 * hook, so a jump out of LuaJIT's own code means a collector at work on a heap too large. */
static void blame(struct tw_lcore *lcore, bool memory, unsigned *chain, unsigned *stage)
{
	const struct tw_vm *vm = lcore->plan->vm;
	unsigned heavy_chain, heavy_stage;

	*chain = lcore->burst.chain < lcore->plan->n_chains ? lcore->burst.chain : 0;
	*stage = lcore->burst.stage;
	if (!memory)
		return;
	if (!tw_vm_heaviest(vm, &heavy_chain, &heavy_stage) || heavy_chain >= lcore->plan->n_chains)
		return;
	*chain = heavy_chain;
	*stage = heavy_stage;
	snprintf(lcore->fault, sizeof(lcore->fault),
	         "it holds %zu MB of the Lua heap, whose limit is %u MB",
	         vm->live[heavy_chain * TW_STAGES_MAX + heavy_stage] >> 20,
	         tw_options()->vm_memory_mb);
}

#define REBUILDS_MAX 8 /* without an NF to blame, before the VM is given up */

/* The VM runs no more. The control thread frees it: that takes its time, and finalizers may run. */
static void give_up(struct tw_lcore *lcore, bool torn)
{
	struct tw_vm *vm = lcore->plan->vm;

	vm->torn = torn;
	lcore->plan->vm = NULL;
	vm->next_dead = atomic_load_explicit(&lcore->given_up, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&lcore->given_up, &vm->next_dead, vm,
	                                              memory_order_release, memory_order_relaxed))
		;
}

void tw_fence_reap(struct tw_lcore *lcore)
{
	struct tw_vm *vm = atomic_exchange_explicit(&lcore->given_up, NULL, memory_order_acquire);

	while (vm) {
		struct tw_vm *next = vm->next_dead;

		tw_vm_free(vm);
		vm = next;
	}
}

void tw_fence_rebuild(struct tw_lcore *lcore)
{
	struct tw_lcore_plan *plan = lcore->plan;
	const struct tw_vm_source source = {
		.blob = plan->blob,
		.len = plan->blob_len,
		.burst = &lcore->burst,
		.n_chains = plan->n_chains,
		.quarantine = plan->quarantine,
		.bank = plan->bank,
	};

	lcore->stats->vm_rebuilds++;
	if (lcore->blameless < REBUILDS_MAX)
		plan->vm = tw_vm_new(&source);
	if (!plan->vm)
		tw_log(TW_LOG_ERROR
		       "cpu %d has no Lua VM any more (%s); packets of its chains are dropped (vm_lost)",
		       lcore->cpu,
		       lcore->blameless < REBUILDS_MAX ? tw_error() : "too many faults");
	lcore->next_tick = 0;
}

/* On probation the plan before takes over at the end of the turn, when the fault may be the new
 * plan's; an NF that both plans have is taken out as always. */
static bool fall_back(struct tw_lcore *lcore, unsigned chain, unsigned stage, bool known)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	const char *name = spec->name[known ? stage : 0];

	if (known && spec->from[stage] != TW_STAGE_NEW && !spec->fresh[stage])
		return false;
	if (atomic_load_explicit(&lcore->stop, memory_order_relaxed))
		return false;
	lcore->falling = atomic_exchange(&lcore->before, NULL);
	if (!lcore->falling)
		return false;
	if (known)
		snprintf(lcore->fell_why, sizeof(lcore->fell_why),
		         "NF %.48s (%s) in chain %.48s on cpu %d: %s", name, spec->where[stage],
		         lcore->shared->chain[spec->chain].name, lcore->cpu, lcore->fault);
	else
		snprintf(lcore->fell_why, sizeof(lcore->fell_why), "cpu %d, outside of any NF: %s",
		         lcore->cpu, lcore->fault);
	return true;
}

/* Take the NF that is to blame out of its chain and build a new VM without it. */
static void take_out(struct tw_lcore *lcore, unsigned chain, unsigned stage)
{
	struct tw_lcore_plan *plan = lcore->plan;
	const struct tw_chain_spec *spec = &plan->chain[chain];
	struct tw_chain_info *info = &lcore->shared->chain[spec->chain];

	plan->quarantine[chain] |= 1u << stage;
	info->quarantined[stage] = 1;
	info->tier = TW_TIER_LUA;
	tw_log(TW_LOG_ERROR
	       "NF %s (%s) in chain %s on cpu %d: %s; it is taken out, its packets are %s from here on",
	       spec->name[stage], spec->where[stage], info->name, lcore->cpu, lcore->fault,
	       spec->bypass[stage] ? "passed by" : "dropped (nf_quarantined)");
}

static void recover(struct tw_lcore *lcore, bool jumped, bool out_of_memory)
{
	struct tw_lcore_plan *plan = lcore->plan;
	const struct tw_chain_spec *spec;
	unsigned chain, stage;
	bool known;

	tw_lock_drop();
	blame(lcore,
	      out_of_memory || (jumped && !lcore->fault_signal && in_luajit(lcore->fault_pc)),
	      &chain, &stage);
	spec = &plan->chain[chain];
	known = stage < spec->stages && !(plan->quarantine[chain] & 1u << stage);
	lcore->stats->chain[spec->chain].faults++;
	give_up(lcore, jumped);
	if (lcore->parked) { /* stop() of an NF whose lcore does not come back */
		tw_log("NF at %s on cpu %d: %s in its stop()", spec->where[known ? stage : 0],
		       lcore->cpu, lcore->fault);
		return;
	}
	if (fall_back(lcore, chain, stage, known))
		return;
	if (known) {
		take_out(lcore, chain, stage);
	} else {
		lcore->blameless++;
		tw_log(TW_LOG_ERROR "cpu %d: %s outside of any NF; its Lua VM is built anew",
		       lcore->cpu, lcore->fault);
	}
	tw_fence_rebuild(lcore);
}

/* Behind a jump out of a signal handler. */
static void landed(struct tw_lcore *lcore, uint64_t seq)
{
	sigset_t set;

	atomic_store_explicit(&lcore->seq, (seq | 1) + 1, memory_order_relaxed);
	sigemptyset(&set);
	sigaddset(&set, TW_STALL_SIGNAL);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGBUS);
	sigaddset(&set, SIGFPE);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	describe_jump(lcore);
}

static inline void unhook(struct tw_lcore *lcore)
{
	if (__builtin_expect(lcore->hooked == 0, 1))
		return;
	lcore->hooked = 0;
	lua_sethook(lcore->plan->vm->L, NULL, 0, 0);
}

static void describe_raise(struct tw_lcore *lcore, lua_State *L, int rc)
{
	if (rc == LUA_ERRMEM)
		snprintf(lcore->fault, sizeof(lcore->fault),
		         "its Lua heap passed the limit of %u MB", tw_options()->vm_memory_mb);
	else
		snprintf(lcore->fault, sizeof(lcore->fault), "%s",
		         lua_isstring(L, -1) ? lua_tostring(L, -1)
		                             : "raised an error that is not a string");
}

/* The code was loaded behind tw_fence_start(), so a jump may leave it as it may leave a trace. The
 * VM was not in use and is whole, but for the NF that is taken out of it. */
int tw_fence_native(struct tw_lcore *lcore, const struct tw_native_call *call)
{
	uint64_t seq = atomic_load_explicit(&lcore->seq, memory_order_relaxed);

	if (sigsetjmp(lcore->jump, 0)) {
		landed(lcore, seq);
		unhook(lcore);
		recover(lcore, false, false);
		return 1;
	}
	atomic_store_explicit(&lcore->seq, seq + 1, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	if (call->on_mbufs)
		call->on_mbufs(&lcore->burst, (void *const *)call->mbufs, call->count, call->port);
	else
		call->fn(&lcore->burst, lcore->burst.count);
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store_explicit(&lcore->seq, seq + 2, memory_order_relaxed);
	unhook(lcore);
	return 0;
}

int tw_fence_enter(struct tw_lcore *lcore, int function)
{
	struct tw_vm *vm = lcore->plan->vm;
	uint64_t seq = atomic_load_explicit(&lcore->seq, memory_order_relaxed);
	lua_State *L;
	int rc;

	if (!vm)
		return 1;
	L = vm->L;
	if (sigsetjmp(lcore->jump, 0)) {
		landed(lcore, seq);
		lcore->hooked = 0;
		recover(lcore, true, false);
		return 1;
	}
	/* The count as an argument: read through the FFI, before a trace runs, it would cost a
	 * call. */
	lua_pushvalue(L, function);
	lua_pushinteger(L, lcore->burst.count);
	atomic_store_explicit(&lcore->seq, seq + 1, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	rc = lua_pcall(L, 1, 0, 0);
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store_explicit(&lcore->seq, seq + 2, memory_order_relaxed);
	unhook(lcore);
	if (__builtin_expect(rc == 0, 1))
		return 0;
	describe_raise(lcore, L, rc);
	recover(lcore, false, rc == LUA_ERRMEM);
	return 1;
}

int tw_fence_call(struct tw_lcore *lcore, int function, const double *args, int n, int results)
{
	struct tw_vm *vm = lcore->plan->vm;
	uint64_t seq = atomic_load_explicit(&lcore->seq, memory_order_relaxed);
	int rc;

	if (sigsetjmp(lcore->jump, 0)) {
		landed(lcore, seq);
		lcore->hooked = 0;
		tw_lock_drop();
		give_up(lcore, true);
		return 2;
	}
	lua_pushvalue(vm->L, function);
	for (int i = 0; i < n; i++)
		lua_pushnumber(vm->L, args[i]);
	atomic_store_explicit(&lcore->seq, seq + 1, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	rc = lua_pcall(vm->L, n, results, 0);
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store_explicit(&lcore->seq, seq + 2, memory_order_relaxed);
	unhook(lcore);
	if (rc == 0)
		return 0;
	tw_lock_drop();
	describe_raise(lcore, vm->L, rc);
	lua_pop(vm->L, 1);
	return 1;
}
