/* SPDX-License-Identifier: BSD-3-Clause */
/* fabric.c - the engine's side of a fabric: members come and go, and what stands behind every exit
 * is worked out from the specification. */
#include "msg/transport.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_MB 64

const struct transport *fabric_transport(uint32_t transport)
{
	switch (transport) {
	case TW_TRANSPORT_SK_MSG:
		return &sk_msg_transport;
	case TW_TRANSPORT_RINGS:
		return &rings_transport;
	default:
		return NULL;
	}
}

/* ---- routes ---- */

/* The function behind `at` in this lane, + 1; the gate thread behind the last. */
static uint8_t next_of(const struct tw_service_spec *spec, uint32_t at, uint32_t lane)
{
	static const uint32_t takes[LANES] = { TW_TAKES_MESSAGE, TW_TAKES_RESPONSE, TW_TAKES_DATA,
		                               TW_TAKES_DATA };
	int step = lane == LANE_RESPONSE || lane == LANE_DATA_BACK ? -1 : 1;

	for (int f = (int)at + step; f >= 0 && f < (int)spec->n_functions; f += step)
		if (!spec->function[f].aside && spec->function[f].takes & takes[lane])
			return f + 1;
	return ROUTES_GATE + 1;
}

static void exits_of(const struct tw_service_spec *spec, uint32_t at, struct routes_function *to)
{
	uint32_t aside = spec->function[at].routes;

	memset(to->exit, 0, sizeof(to->exit));
	to->allow = 1u << ROUTES_GATE;
	for (uint32_t lane = 0; lane < LANES; lane++) {
		uint32_t exit = TW_EXIT_ROUTE;

		to->exit[lane][TW_EXIT_NEXT] = next_of(spec, at, lane);
		to->exit[lane][TW_EXIT_GATE] = ROUTES_GATE + 1;
		for (uint32_t f = 0; f < spec->n_functions && exit < TW_EXITS_MAX; f++)
			if (aside >> f & 1)
				to->exit[lane][exit++] = f + 1;
		for (exit = 0; exit < TW_EXITS_MAX; exit++)
			if (to->exit[lane][exit])
				to->allow |= 1u << (to->exit[lane][exit] - 1);
	}
}

static int work_out(struct tw_fabric *f, const struct tw_service_spec *spec)
{
	if (spec->n_functions >= TW_STAGES_MAX)
		return tw_fail(EINVAL, "%s: %u functions, a chain has at most %u", spec->name,
		               spec->n_functions, TW_STAGES_MAX - 1);
	for (uint32_t i = 0; i < TW_STAGES_MAX; i++) {
		struct routes_function *to = &f->routes.function[i];

		if (i < spec->n_functions) {
			exits_of(spec, i, to);
			/* Pieces of one body must not pass each other. */
			to->keyed = spec->function[i].sticky ||
			            spec->function[i].takes & TW_TAKES_DATA;
		} else {
			memset(to->exit, 0, sizeof(to->exit));
			to->allow = 0;
		}
	}
	f->routes.function[ROUTES_GATE].allow = (1u << spec->n_functions) - 1;
	f->spec = *spec;
	return 0;
}

static int publish_all(struct tw_fabric *f)
{
	int rc = 0;

	for (uint32_t i = 0; i < ROUTES_FUNCTIONS && !rc; i++)
		rc = f->transport->publish_function(f, i);
	return rc;
}

int tw_fabric_route(struct tw_fabric *f, const struct tw_service_spec *spec)
{
	int rc = work_out(f, spec);

	if (!rc && f->transport)
		rc = publish_all(f);
	return rc;
}

/* ---- instances of a function ---- */

static uint32_t weight(uint32_t slot, uint32_t member)
{
	uint32_t x = (slot + 1) * 0x9e3779b9u ^ (member + 1) * 0x85ebca6bu;

	x = (x ^ x >> 15) * 0x2c1b3c6d;
	x = (x ^ x >> 12) * 0x297a2d39;
	return x ^ x >> 15;
}

/* The open instances; each slot of keys belongs to the one that weighs most there, so that few
 * keys move when one comes or goes. Instances weigh by their number in the function, which a
 * restart does not change. */
static void gather(struct tw_fabric *f, uint32_t function)
{
	struct routes_function *to = &f->routes.function[function];
	uint32_t n = 0;

	for (uint32_t m = TW_GATES_MAX; m < TW_MEMBERS_MAX && n < TW_INSTANCES_MAX; m++)
		if (f->routes.member[m].state == MEMBER_OPEN &&
		    f->routes.member[m].function == function)
			to->instance[n++] = m;
	to->n = n;
	memset(to->instance + n, 0, sizeof(to->instance) - n);
	for (uint32_t s = 0; s < ROUTES_SLOTS; s++) {
		uint32_t best = 0;

		for (uint32_t i = 1; i < n; i++)
			if (weight(s, f->routes.member[to->instance[i]].instance) >
			    weight(s, f->routes.member[to->instance[best]].instance))
				best = i;
		to->slot[s] = n ? to->instance[best] : 0;
	}
}

static int set_state(struct tw_fabric *f, uint32_t member, enum routes_state state)
{
	struct routes_member *m = &f->routes.member[member];
	int rc;

	if (member < TW_GATES_MAX || member >= TW_MEMBERS_MAX || m->state == MEMBER_NONE)
		return tw_fail(EINVAL, "%s: there is no member %u", f->spec.name, member);
	m->state = state;
	gather(f, m->function);
	rc = f->transport->publish_member(f, member);
	return rc < 0 ? rc : f->transport->publish_function(f, m->function);
}

static int free_instance(const struct tw_fabric *f, uint32_t function)
{
	uint32_t taken = 0;

	for (uint32_t m = TW_GATES_MAX; m < TW_MEMBERS_MAX; m++)
		if (f->routes.member[m].state != MEMBER_NONE &&
		    f->routes.member[m].function == function)
			taken |= 1u << f->routes.member[m].instance;
	return taken == UINT32_MAX ? -1 : __builtin_ctz(~taken);
}

/* Numbers go round: the one that was free for the longest time. */
static int free_member(struct tw_fabric *f)
{
	const uint32_t numbers = TW_MEMBERS_MAX - TW_GATES_MAX;

	for (uint32_t i = 0; i < numbers; i++) {
		int m = TW_GATES_MAX + (f->next_member + i) % numbers;

		if (f->routes.member[m].state == MEMBER_NONE) {
			f->next_member += i + 1;
			return m;
		}
	}
	return -1;
}

int tw_fabric_add(struct tw_fabric *f, uint32_t function)
{
	int instance, member, rc;

	if (!f->transport)
		return tw_fail(EINVAL, "%s runs inline: it has no instances", f->spec.name);
	if (function >= f->spec.n_functions)
		return tw_fail(EINVAL, "%s has no function %u, %u in all", f->spec.name, function,
		               f->spec.n_functions);
	instance = free_instance(f, function);
	member = free_member(f);
	if (instance < 0 || member < 0)
		return tw_fail(ENOSPC,
		               "%s: no more instances of %s, %d of a function and %d in all",
		               f->spec.name, f->spec.function[function].name, TW_INSTANCES_MAX,
		               TW_MEMBERS_MAX - TW_GATES_MAX);
	f->routes.member[member] =
		(struct routes_member){ .state = MEMBER_JOINS,
		                        .function = function,
		                        .instance = instance,
		                        .life = f->routes.member[member].life + 1 };
	memset(tw_pool_board(f->pool, member), 0, sizeof(struct tw_member_board));
	rc = f->transport->add(f, member);
	if (!rc) {
		rc = f->transport->publish_member(f, member);
		if (rc)
			f->transport->remove(f, member);
	}
	if (rc)
		f->routes.member[member].state = MEMBER_NONE;
	return rc < 0 ? rc : member;
}

int tw_fabric_open(struct tw_fabric *f, uint32_t member)
{
	return set_state(f, member, MEMBER_OPEN);
}

int tw_fabric_shut(struct tw_fabric *f, uint32_t member)
{
	return set_state(f, member, MEMBER_SHUT);
}

int tw_fabric_remove(struct tw_fabric *f, uint32_t member)
{
	int rc = set_state(f, member, MEMBER_NONE);

	if (rc < 0)
		return rc;
	f->transport->settle(f);
	f->transport->remove(f, member);
	/* Hints that it took and did not use. */
	tw_pool_mend(f->pool);
	return 0;
}

int tw_fabric_join(struct tw_fabric *f, uint32_t member, struct tw_join *join, int fds[TW_JOIN_FDS])
{
	const struct routes_member *m = &f->routes.member[member & (TW_MEMBERS_MAX - 1)];
	struct tw_pool_fds pool;
	bool readonly;

	if (member >= TW_MEMBERS_MAX || m->state == MEMBER_NONE || !f->transport)
		return tw_fail(EINVAL, "%s: there is no member %u", f->spec.name, member);
	readonly = m->function < f->spec.n_functions && f->spec.function[m->function].readonly;
	tw_pool_descriptors(f->pool, &pool);
	if (readonly && pool.blocks_readonly < 0)
		return tw_fail(ENOENT,
		               "%s: memory that can only be read needs /proc; mount it, or "
		               "take readonly away",
		               f->spec.name);
	f->reach[member] = f->routes.function[m->function].allow;
	memset(join, 0, sizeof(*join));
	join->abi = TW_ABI_VERSION;
	join->member = member;
	join->function = m->function;
	join->instance = m->instance;
	join->transport = f->spec.transport;
	join->readonly = readonly;
	join->gates = f->gates;
	join->n_fds = 2;
	fds[0] = pool.owners;
	fds[1] = readonly ? pool.blocks_readonly : pool.blocks;
	return f->transport->join(f, member, join, fds);
}

int tw_fabric_stats(struct tw_fabric *f, uint32_t member, struct tw_member_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	if (member >= TW_MEMBERS_MAX || !f->transport)
		return tw_fail(EINVAL, "%s: there is no member %u", f->spec.name, member);
	f->transport->stats(f, member, stats);
	return 0;
}

/* ---- fabrics ---- */

static int open_gate(struct tw_fabric *f, uint32_t gate)
{
	int fds[TW_JOIN_FDS], rc;
	struct tw_join join;

	rc = f->transport->add(f, gate);
	if (!rc)
		rc = f->transport->publish_member(f, gate);
	if (!rc)
		rc = tw_fabric_join(f, gate, &join, fds);
	if (!rc)
		rc = tw_link_open(&f->gate[gate], &join, fds, f->pool);
	if (!rc && f->transport->gate_link)
		f->transport->gate_link(f, f->gate[gate]);
	return rc;
}

int tw_fabric_new(struct tw_fabric **out, const struct tw_service_spec *spec, uint32_t gates)
{
	struct tw_fabric *f = calloc(1, sizeof(*f));
	uint32_t memory_mb = spec->memory_mb ?: MEMORY_MB;
	int rc;

	*out = NULL;
	if (!f)
		return tw_fail(ENOMEM, "%s: no memory for a fabric", spec->name);
	f->gates = gates;
	f->transport = fabric_transport(spec->transport);
	rc = gates < 1 || gates > TW_GATES_MAX || spec->transport > TW_TRANSPORT_INLINE
	             ? tw_fail(EINVAL, "%s: transport %u, %u gate threads (1 to %d)", spec->name,
	                       spec->transport, gates, TW_GATES_MAX)
	             : work_out(f, spec);
	f->spec.memory_mb = memory_mb;
	if (!rc)
		rc = f->transport ? f->transport->create(f)
		                  : tw_pool_create(&f->pool, spec->name, memory_mb, -1);
	for (uint32_t g = 0; !rc && f->transport && g < gates; g++) {
		f->routes.member[g] = (struct routes_member){ .state = MEMBER_OPEN,
			                                      .function = ROUTES_GATE,
			                                      .instance = g };
		rc = open_gate(f, g);
	}
	if (!rc && f->transport)
		rc = publish_all(f);
	if (rc) {
		tw_fabric_free(f);
		return rc;
	}
	*out = f;
	return 0;
}

void tw_fabric_free(struct tw_fabric *f)
{
	if (!f)
		return;
	for (uint32_t g = 0; g < TW_GATES_MAX; g++)
		tw_link_close(f->gate[g]);
	if (f->transport && f->own)
		f->transport->destroy(f);
	tw_pool_close(f->pool);
	free(f);
}

struct tw_pool *tw_fabric_pool(struct tw_fabric *f)
{
	return f->pool;
}

struct tw_link *tw_fabric_gate(struct tw_fabric *f, uint32_t gate)
{
	return gate < TW_GATES_MAX ? f->gate[gate] : NULL;
}

int tw_fabric_function(const struct tw_fabric *f, uint32_t member)
{
	const struct routes_member *m = &f->routes.member[member % TW_MEMBERS_MAX];

	return member >= TW_GATES_MAX && member < TW_MEMBERS_MAX && m->life ? m->function : -ENOENT;
}

bool tw_fabric_outdated(const struct tw_fabric *f, uint32_t member)
{
	const struct routes_member *m = &f->routes.member[member % TW_MEMBERS_MAX];

	return f->transport == &rings_transport && m->state != MEMBER_NONE &&
	       m->function < TW_STAGES_MAX &&
	       f->routes.function[m->function].allow & ~f->reach[member % TW_MEMBERS_MAX];
}
