/* SPDX-License-Identifier: BSD-3-Clause */
/* plan.c - plans are built here, off the data path: what each lcore is to run, its VM included. */
#include "plan.h"
#include "error.h"
#include "native.h"
#include "port.h"
#include "rcu.h"
#include "stats.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct tw_plan *tw_plan_running, *tw_plan_before;

/* ---- lcores ---- */

static struct tw_lcore *lcore_memory(int slot)
{
	struct tw_lcore *lcore = tw_lcore_table[slot];

	if (lcore)
		return lcore;
	lcore = aligned_alloc(64, (sizeof(*lcore) + 63) & ~63ul);
	if (!lcore)
		return NULL;
	memset(lcore, 0, sizeof(*lcore));
	lcore->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	lcore->epoll = -1;
	return lcore;
}

static int lcore_new(int slot, int cpu)
{
	static uint64_t lives;
	struct tw_lcore *lcore = lcore_memory(slot);

	if (!lcore)
		return tw_fail(ENOMEM, "no memory for an lcore");
	lcore->slot = slot;
	lcore->cpu = cpu;
	lcore->plan = NULL;
	lcore->shared = tw_stats();
	lcore->stats = &lcore->shared->lcore[slot];
	lcore->stats->cpu = cpu < 0 ? 0 : cpu;
	lcore->burst.lcore = slot;
	lcore->blameless = 0;
	atomic_store(&lcore->stop, false);
	if (lcore->shared->lcores < (uint32_t)slot + 1)
		lcore->shared->lcores = slot + 1;
	if (cpu < 0) {
		lcore->thread = pthread_self();
		pthread_getcpuclockid(lcore->thread, &lcore->cpu_clock);
		tw_fence_thread_init();
		tw_rcu_register(slot);
		atomic_store(&lcore->up, true);
	}
	/* The watchdog tells bursts apart by slot and seq, and remembers: a slot's next lcore must
	 * not use the numbers of its last one again. */
	atomic_store_explicit(&lcore->seq, ++lives << 40, memory_order_relaxed);
	tw_lcore_table[slot] = lcore;
	return 0;
}

void tw_lcore_retire(struct tw_lcore *lcore)
{
	if (lcore->cpu < 0 && lcore->cpu != TW_NO_CPU)
		tw_rcu_unregister(lcore->slot);
	atomic_store(&lcore->up, false);
	atomic_store(&lcore->fell, false);
	tw_fence_reap(lcore);
	lcore->plan = NULL;
	lcore->cpu = TW_NO_CPU;
	lcore->stats->cpu = -1;
	lcore->parked = false;
}

void tw_lcores_free(void)
{
	for (int i = 0; i < TW_LCORES_MAX; i++) {
		struct tw_lcore *lcore = tw_lcore_table[i];
		int cpu;

		if (!lcore)
			continue;
		cpu = lcore->stats->cpu;
		tw_lcore_retire(lcore);
		lcore->stats->cpu = cpu; /* the figures of an engine that stopped are still shown */
		tw_lcore_table[i] = NULL;
		close(lcore->wake);
		if (lcore->epoll >= 0)
			close(lcore->epoll);
		free(lcore);
	}
}

/* The slot of a CPU's lcore: the one that runs, or a free one. */
static int slot_for(int cpu)
{
	int free_slot = -1;

	for (int i = TW_LCORES_MAX - 1; i >= 0; i--) {
		const struct tw_lcore *lcore = tw_lcore_table[i];

		if (!lcore || lcore->cpu == TW_NO_CPU)
			free_slot = i;
		else if (lcore->cpu == cpu)
			return i;
	}
	return free_slot;
}

/* ---- plans ---- */

struct tw_plan *tw_plan_new(void)
{
	struct tw_plan *plan = calloc(1, sizeof(*plan));
	int bank = plan ? tw_native_bank_new() : tw_fail(ENOMEM, "no memory for a plan");

	if (bank < 0) {
		free(plan);
		return NULL;
	}
	plan->bank = bank;
	return plan;
}

uint32_t tw_plan_bank(const struct tw_plan *plan)
{
	if (!plan)
		plan = tw_plan_running;
	return plan ? plan->bank : UINT32_MAX;
}

static void lcore_plan_free(struct tw_lcore_plan *lp)
{
	if (!lp)
		return;
	tw_vm_free(lp->vm);
	tw_native_bank_release(lp->bank);
	free(lp->blob);
	free(lp);
}

static struct tw_lcore_plan *lcore_plan_new(uint32_t bank)
{
	struct tw_lcore_plan *lp = calloc(1, sizeof(*lp));

	if (!lp)
		return NULL;
	lp->bank = bank;
	tw_native_bank_hold(bank);
	lp->burst = tw_options()->burst;
	lp->tx_retries = tw_options()->tx_retries;
	return lp;
}

/* An NF that was taken out of its lcore stays so until it is made anew. */
static uint32_t inherited(const struct tw_lcore *lcore, const struct tw_chain_spec *spec)
{
	const struct tw_plan_entry *running = tw_plan_find(tw_plan_running, lcore->slot);
	const struct tw_lcore_plan *old = running ? running->lcore : NULL;
	uint32_t mask = 0;

	for (unsigned c = 0; old && c < old->n_chains; c++)
		for (unsigned s = 0; old->chain[c].chain == spec->chain && s < spec->stages; s++)
			if (!spec->fresh[s] && spec->from[s] < TW_STAGE_GONE &&
			    old->quarantine[c] & 1u << spec->from[s])
				mask |= 1u << s;
	return mask;
}

static int lcore_plan_build(struct tw_lcore_plan *lp, struct tw_lcore *lcore, const char *blob,
                            size_t len)
{
	struct tw_vm_source source = {
		.burst = &lcore->burst,
		.n_chains = lp->n_chains,
		.quarantine = lp->quarantine,
		.bank = lp->bank,
	};

	lp->blob = malloc(len + 1);
	if (!lp->blob)
		return tw_fail(ENOMEM, "no memory for the plan of cpu %d", lcore->cpu);
	memcpy(lp->blob, blob, len);
	source.blob = lp->blob;
	source.len = lp->blob_len = len;
	for (unsigned c = 0; c < lp->n_chains; c++) {
		lp->quarantine[c] = inherited(lcore, &lp->chain[c]);
		if (lp->chain[c].native)
			lp->word[c] = tw_native_words(lp->bank, lp->chain[c].chain);
	}
	lp->vm = tw_vm_new(&source);
	return lp->vm ? 0 : -EINVAL;
}

static cpu_set_t allowed; /* at the start: the control thread keeps off the CPUs of lcores later */

__attribute__((constructor)) static void allowed_init(void)
{
	sched_getaffinity(0, sizeof(allowed), &allowed);
}

static int check(int cpu, const struct tw_chain_spec *chains, uint32_t n_chains, uint32_t n_inputs)
{
	if (cpu >= 0 && (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed)))
		return tw_fail(EINVAL,
		               "there is no CPU %d for an lcore; this process may use %d CPU(s)",
		               cpu, CPU_COUNT(&allowed));
	if (n_chains > TW_CHAIN_GONE || n_inputs > TW_INPUTS_MAX)
		return tw_fail(
			E2BIG,
			"cpu %d: %u chains with %u inputs are more than an lcore takes (%d, %d)",
			cpu, n_chains, n_inputs, TW_CHAIN_GONE, TW_INPUTS_MAX);
	for (uint32_t i = 0; i < n_chains; i++)
		if (chains[i].chain >= TW_CHAIN_GONE || chains[i].stages > TW_STAGE_GONE)
			return tw_fail(EINVAL,
			               "chain number %u with %u NFs: numbers are below %d, and a "
			               "chain has at most %d NFs",
			               chains[i].chain, chains[i].stages, TW_CHAIN_GONE,
			               TW_STAGE_GONE);
	return 0;
}

int tw_plan_add_lcore(struct tw_plan *plan, int cpu, const struct tw_chain_spec *chains,
                      uint32_t n_chains, const struct tw_input_spec *inputs, uint32_t n_inputs,
                      const char *blob, size_t blob_len)
{
	struct tw_lcore_plan *lp;
	int slot, err = check(cpu, chains, n_chains, n_inputs);
	bool is_new;

	if (err < 0)
		return err;
	slot = slot_for(cpu);
	if (slot < 0)
		return tw_fail(ENOSPC, "%d lcores are in use, that is the limit", TW_LCORES_MAX);
	if (tw_plan_find(plan, slot))
		return tw_fail(EEXIST, "cpu %d is in the plan already", cpu);
	is_new = !tw_lcore_table[slot] || tw_lcore_table[slot]->cpu == TW_NO_CPU;
	if (is_new && (err = lcore_new(slot, cpu)) < 0)
		return err;
	lp = lcore_plan_new(plan->bank);
	if (lp) {
		memcpy(lp->chain, chains, n_chains * sizeof(*chains));
		memcpy(lp->input, inputs, n_inputs * sizeof(*inputs));
		lp->n_chains = n_chains;
		lp->n_inputs = n_inputs;
		err = lcore_plan_build(lp, tw_lcore_table[slot], blob, blob_len);
	} else {
		err = tw_fail(ENOMEM, "no memory for the plan of cpu %d", cpu);
	}
	if (err < 0) {
		lcore_plan_free(lp);
		if (is_new)
			tw_lcore_retire(tw_lcore_table[slot]);
		return err;
	}
	plan->entry[plan->n_lcores++] = (struct tw_plan_entry){
		.slot = slot,
		.lcore = lp,
		.nothing = tw_plan_find(tw_plan_running, slot) ? NULL : lcore_plan_new(plan->bank),
	};
	return slot;
}

int tw_plan_keep_lcore(struct tw_plan *plan, int cpu)
{
	int slot = slot_for(cpu);
	struct tw_plan_entry *running = slot < 0 ? NULL : tw_plan_find(tw_plan_running, slot);

	if (!running || tw_lcore_table[slot]->cpu != cpu)
		return tw_fail(ENOENT, "no lcore runs on cpu %d that could be kept", cpu);
	if (tw_plan_find(plan, slot))
		return tw_fail(EEXIST, "cpu %d is in the plan already", cpu);
	plan->entry[plan->n_lcores++] = (struct tw_plan_entry){
		.slot = slot,
		.kept = true,
		.lcore = running->lcore,
	};
	return slot;
}

void tw_plan_without_port(struct tw_plan *plan, int port)
{
	if (port >= 0 && port < TW_PORTS_MAX)
		plan->without |= 1ull << port;
}

void tw_plan_free(struct tw_plan *plan)
{
	if (!plan)
		return;
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[plan->entry[i].slot];

		if (!plan->entry[i].kept)
			lcore_plan_free(plan->entry[i].lcore);
		lcore_plan_free(plan->entry[i].nothing);
		/* Lcores that never ran vanish again. */
		if (!plan->ran && lcore && lcore->cpu != TW_NO_CPU && !lcore->plan)
			tw_lcore_retire(lcore);
	}
	tw_native_bank_release(plan->bank);
	free(plan->swap.left);
	free(plan);
}

/* ---- tx queues ---- */

/* Every lcore has a tx queue of its own where the port has enough, a shared one elsewhere, and
 * keeps it from plan to plan: two plans are under way at once while they are exchanged. */
static uint16_t queue_of[TW_LCORES_MAX][TW_PORTS_MAX];
static uint64_t queue_set[TW_LCORES_MAX]; /* bit per port */

static void count_users(const struct tw_plan *plan, const struct tw_plan *other, int port,
                        uint16_t *users)
{
	uint64_t slots = 0;

	for (uint32_t i = 0; i < plan->n_lcores; i++)
		slots |= 1ull << plan->entry[i].slot;
	for (uint32_t i = 0; other && i < other->n_lcores; i++)
		slots |= 1ull << other->entry[i].slot;
	memset(users, 0, TW_TX_QUEUES_MAX * sizeof(*users));
	for (; slots; slots &= slots - 1) {
		int slot = __builtin_ctzll(slots);

		if (queue_set[slot] >> port & 1)
			users[queue_of[slot][port]]++;
	}
}

/* The queue with the fewest users. */
static void take_queue(int slot, int port, uint16_t *users)
{
	uint16_t best = 0;

	for (uint16_t q = 1; q < tw_port_table[port].tx_queues; q++)
		if (users[q] < users[best])
			best = q;
	users[best]++;
	queue_of[slot][port] = best;
	queue_set[slot] |= 1ull << port;
}

/* Returns true when an lcore that runs has to lock from now on, and did not. */
static bool set_shared(struct tw_plan *plan, int port, const uint16_t *users)
{
	bool changed = false;

	for (uint32_t i = 0; plan && i < plan->n_lcores; i++) {
		struct tw_lcore_plan *lp = plan->entry[i].lcore;
		uint16_t queue = queue_of[plan->entry[i].slot][port];
		bool shared = users[queue] > 1;

		changed |= shared && !lp->tx_shared[port];
		lp->tx_queue[port] = queue;
		__atomic_store_n(&lp->tx_shared[port], shared, __ATOMIC_RELEASE);
	}
	return changed;
}

static uint64_t started_ports(void)
{
	uint64_t ports = 0;

	for (int p = 0; p < TW_PORTS_MAX; p++)
		if (tw_port_table[p].started && tw_port_table[p].tx_queues)
			ports |= 1ull << p;
	return ports;
}

/* Every lcore of the plan that runs has begun a new turn. */
static int wait_turn(struct tw_plan *plan)
{
	uint64_t seen[TW_LCORES_MAX], end = tw_now() + 2000000000ull;

	atomic_thread_fence(memory_order_seq_cst);
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[plan->entry[i].slot];

		seen[i] = __atomic_load_n(&lcore->stats->heartbeat, __ATOMIC_ACQUIRE);
		tw_lcore_wake(lcore);
	}
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[plan->entry[i].slot];

		while (lcore->threaded &&
		       __atomic_load_n(&lcore->stats->heartbeat, __ATOMIC_ACQUIRE) == seen[i]) {
			if (tw_now() > end)
				return tw_fail(ETIMEDOUT, "cpu %d makes no turns", lcore->cpu);
			usleep(20);
		}
	}
	return 0;
}

int tw_tx_assign(struct tw_plan *from, struct tw_plan *to)
{
	uint16_t users[TW_TX_QUEUES_MAX];
	bool wait = false;

	to->ports = started_ports() & ~to->without;
	for (int slot = 0; slot < TW_LCORES_MAX; slot++)
		queue_set[slot] &= from ? from->ports : 0;
	for (uint64_t ports = to->ports; ports; ports &= ports - 1) {
		int port = __builtin_ctzll(ports);

		count_users(to, from, port, users);
		for (uint32_t i = 0; i < to->n_lcores; i++)
			if (!(queue_set[to->entry[i].slot] >> port & 1))
				take_queue(to->entry[i].slot, port, users);
		set_shared(to, port, users);
		if (from && from->ports >> port & 1)
			wait |= set_shared(from, port, users);
	}
	for (uint32_t i = 0; i < to->n_lcores; i++) {
		struct tw_lcore_plan *lp = to->entry[i].lcore;

		wait |= (lp->ports & ~to->ports) != 0;
		__atomic_store_n(&lp->ports, to->ports, __ATOMIC_RELEASE);
	}
	return wait && from ? wait_turn(from) : 0;
}

void tw_tx_relax(struct tw_plan *plan)
{
	uint16_t users[TW_TX_QUEUES_MAX];

	for (uint64_t ports = plan->ports; ports; ports &= ports - 1) {
		count_users(plan, NULL, __builtin_ctzll(ports), users);
		set_shared(plan, __builtin_ctzll(ports), users);
	}
	for (int slot = 0; slot < TW_LCORES_MAX; slot++)
		if (!tw_plan_find(plan, slot))
			queue_set[slot] = 0;
	for (uint32_t i = 0; i < plan->n_lcores; i++)
		__atomic_store_n(&plan->entry[i].lcore->ports, plan->ports, __ATOMIC_RELEASE);
}
