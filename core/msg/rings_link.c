/* SPDX-License-Identifier: BSD-3-Clause */
/* rings_link.c - descriptors over rings, a member's side: it looks up where they go, changes the
 * owner and puts them in; the same rules as bpf/redirect.bpf.c. */
#include "error.h"
#include "msg/rings.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

int rings_open(struct tw_link *link, const struct tw_join *join, const int *fds)
{
	struct ring_end *e = calloc(1, sizeof(*e));
	void *at;

	link->own = e;
	if (!e)
		return tw_fail(ENOMEM, "no memory for a link");
	if (join->n_fds < 3 || join->instance >= TW_INSTANCES_MAX)
		return tw_fail(EINVAL, "rings need their routes, and %u descriptors came",
		               join->n_fds);
	at = mmap(NULL, sizeof(struct routes), PROT_READ, MAP_SHARED, fds[2], 0);
	if (at == MAP_FAILED)
		return tw_fail(errno, "the routes cannot be mapped");
	e->routes = at;
	e->table = &e->own;
	for (uint32_t i = 3; i < join->n_fds; i++) {
		if (join->is[i] >= ROUTES_FUNCTIONS || e->own.of[join->is[i]])
			return tw_fail(EINVAL, "descriptor %u is no ring of a function", i);
		e->own.of[join->is[i]] = rings_map(fds[i]);
		if (!e->own.of[join->is[i]])
			return tw_fail(errno, "the rings of function %u cannot be mapped",
			               join->is[i]);
	}
	if (link->function == ROUTES_GATE)
		return 0; /* the engine says the rest */
	if (link->function >= ROUTES_FUNCTIONS || !e->own.of[link->function])
		return tw_fail(EINVAL, "member %u has no ring of its own", link->member);
	e->mine = &e->own.of[link->function][join->instance];
	return 0;
}

void rings_close(struct tw_link *link)
{
	struct ring_end *e = link->own;

	if (!e)
		return;
	for (uint32_t i = 0; i < ROUTES_FUNCTIONS; i++)
		rings_unmap(e->own.of[i]);
	if (e->routes)
		munmap((void *)e->routes, sizeof(*e->routes));
	free(e);
}

/* ---- where to ---- */

struct target {
	uint32_t member, function;
	bool keyed;
	struct ring *ring;
	struct routes_member as; /* as it was when it was chosen */
};

static struct routes_member member_now(const struct ring_end *e, uint32_t member)
{
	union {
		uint32_t whole;
		struct routes_member member;
	} now;

	now.whole = __atomic_load_n((const uint32_t *)&e->routes->member[member % TW_MEMBERS_MAX],
	                            __ATOMIC_SEQ_CST);
	return now.member;
}

static struct ring *ring_of(const struct ring_end *e, const struct routes_member *m)
{
	struct ring *rings = m->function < ROUTES_FUNCTIONS
	                             ? __atomic_load_n(&e->table->of[m->function], __ATOMIC_ACQUIRE)
	                             : NULL;

	return rings ? &rings[m->instance % TW_INSTANCES_MAX] : NULL;
}

static uint64_t load_of(struct tw_link *link, uint32_t member, const struct ring *ring)
{
	const struct tw_member_board *board = tw_pool_board(link->pool, member);

	return ring_load(ring, __atomic_load_n(&board->finished, __ATOMIC_RELAXED));
}

static uint32_t least_loaded(struct tw_link *link, const struct routes_function *f)
{
	struct ring_end *e = link->own;
	uint64_t least = UINT64_MAX;
	uint32_t best = 0, n = f->n < TW_INSTANCES_MAX ? f->n : TW_INSTANCES_MAX;

	if (n == 1)
		return f->instance[0];
	for (uint32_t i = 0; i < n && least; i++) {
		uint32_t member = f->instance[i];
		struct routes_member m = member_now(e, member);
		struct ring *ring = ring_of(e, &m);
		uint64_t load = ring ? load_of(link, member, ring) : UINT64_MAX;

		if (load < least) {
			least = load;
			best = member;
		}
	}
	return best;
}

static int find_function(struct tw_link *link, const struct tw_desc *d, uint32_t *function)
{
	struct ring_end *e = link->own;
	const struct routes_function *from = &e->routes->function[link->function];
	bool gate = link->function == ROUTES_GATE;

	*function = gate ? d->gate
	                 : from->exit[d->exit >> ROUTES_LANE_SHIFT & (LANES - 1)]
	                             [d->exit & (TW_EXITS_MAX - 1)] -
	                            1u;
	if (*function >= ROUTES_FUNCTIONS || (!gate && (d->exit & 0xff) >= TW_EXITS_MAX) ||
	    !(from->allow >> *function & 1))
		return -EPERM;
	return 0;
}

static int find_member(struct tw_link *link, const struct tw_desc *d, struct target *to)
{
	struct ring_end *e = link->own;
	const struct routes_function *f = &e->routes->function[to->function];

	to->keyed = to->function != ROUTES_GATE && f->keyed && d->key;
	if (to->function == ROUTES_GATE)
		to->member = d->gate;
	else if (!f->n)
		return -ENOTCONN;
	else
		to->member = to->keyed ? f->slot[routes_slot(d->key)] : least_loaded(link, f);
	return 0;
}

static int find(struct tw_link *link, const struct tw_desc *d, struct target *to)
{
	struct ring_end *e = link->own;
	bool direct = link->function == ROUTES_GATE && d->gate & ROUTES_DIRECT;
	int rc;

	if (direct) {
		to->member = d->gate & (TW_MEMBERS_MAX - 1);
		to->function = member_now(e, to->member).function;
		to->keyed = false;
	} else {
		rc = find_function(link, d, &to->function);
		if (!rc)
			rc = find_member(link, d, to);
		if (rc)
			return rc;
	}
	if (to->member >= TW_MEMBERS_MAX)
		return -EPERM;
	to->as = member_now(e, to->member);
	if (to->as.state < MEMBER_OPEN || (to->as.state != MEMBER_OPEN && !direct) ||
	    to->as.function != to->function)
		return to->function == ROUTES_GATE ? -EPERM : -ENOTCONN;
	/* Allowed since this member has joined: it has no descriptor for it. */
	to->ring = ring_of(e, &to->as);
	return to->ring ? 0 : -ENOTCONN;
}

/* ---- sending ---- */

static int put(struct tw_link *link, const struct target *to, const struct tw_desc *desc)
{
	bool gate = link->function == ROUTES_GATE;
	struct ring_end *e = link->own;
	struct tw_desc out = *desc;
	struct routes_member now;
	int rc;

	if (gate && to->function != ROUTES_GATE &&
	    load_of(link, to->member, to->ring) >= FABRIC_DEPTH)
		return -EAGAIN;
	/* Who dies between the two leaves a block that is on its way and in no ring: rings.c. */
	__atomic_store_n(&link->board->sending, out.handle, __ATOMIC_RELEASE);
	rc = tw_pool_give(link->pool, out.handle, link->member, to->member);
	if (rc)
		return rc;
	out.exit = (out.exit & 0xff) | link->member << ROUTES_LANE_SHIFT;
	if (gate)
		out.gate = link->member;
	rc = ring_put(to->ring, &out);
	if (!rc) {
		atomic_thread_fence(memory_order_seq_cst);
		now = member_now(e, to->member);
		if (now.state >= MEMBER_OPEN && now.life == to->as.life)
			return 0;
		rc = -ENOTCONN;
	}
	/* It may be somebody else's by now: then it is on its way after all. */
	return tw_pool_ungive(link->pool, out.handle, link->member, to->member) == 0 ? rc : 0;
}

/* The target of the one before serves for this one as well. */
static bool same_way(struct tw_link *link, const struct tw_desc *d, const struct tw_desc *before,
                     const struct target *to)
{
	bool gate = link->function == ROUTES_GATE;

	return d->exit == before->exit && !to->keyed && !d->key &&
	       (d->gate == before->gate || !(gate || to->function == ROUTES_GATE));
}

int rings_send(struct tw_link *link, struct tw_desc *desc, unsigned n)
{
	struct tw_member_board *board = link->board;
	struct target to = { 0 };
	unsigned i, run = 0;
	int rc = 0;

	for (i = 0; i < n; i++) {
		if (i == 0 || ++run >= ROUTES_SHARE ||
		    !same_way(link, &desc[i], &desc[i - 1], &to)) {
			rc = find(link, &desc[i], &to);
			run = 0;
		}
		if (!rc)
			rc = put(link, &to, &desc[i]);
		if (rc)
			break;
	}
	fabric_bump(&board->sends, 1);
	fabric_bump(&board->accepted, i);
	/* Behind others it will be the first one next time. */
	if (!i && (rc == -EPERM || rc == -ESTALE))
		fabric_bump(&board->denied, 1);
	else if (!i && rc == -EAGAIN)
		fabric_bump(&board->full, 1);
	return i ? (int)i : rc;
}

/* ---- receiving ---- */

int rings_receive(struct tw_link *link, struct tw_desc *desc, unsigned max)
{
	struct ring_end *e = link->own;

	return (int)ring_take(e->mine, &e->head, desc, max);
}

bool rings_ready(struct tw_link *link)
{
	struct ring_end *e = link->own;

	return ring_is_ready(e->mine, e->head);
}
