/* SPDX-License-Identifier: BSD-3-Clause */
/* rings.c - descriptors over rings, the engine's side: a file of rings for each function and one
 * for the gate threads, of which a member gets its own and those that it may send to; and a page
 * with the routes, which they can only read. */
#include "msg/rings.h"
#include "error.h"
#include "msg/pool_own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct rings {
	int files[ROUTES_FUNCTIONS]; /* -1: none yet */
	struct ring_table table;
	int page, page_readonly;
	struct routes *routes; /* in the page */
};

struct ring *rings_map(int fd)
{
	void *at = mmap(NULL, RING_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

void rings_unmap(struct ring *rings)
{
	if (rings)
		munmap(rings, RING_FILE_BYTES);
}

static int make_file(struct tw_fabric *f, uint32_t function)
{
	struct rings *r = f->own;
	struct ring *rings;

	if (r->files[function] >= 0)
		return 0;
	r->files[function] = pool_memory_file(f->spec.name, "rings", RING_FILE_BYTES);
	if (r->files[function] < 0)
		return r->files[function];
	rings = rings_map(r->files[function]);
	if (!rings)
		return tw_fail(errno, "%s: rings cannot be mapped: %s", f->spec.name,
		               strerror(errno));
	__atomic_store_n(&r->table.of[function], rings, __ATOMIC_RELEASE);
	return 0;
}

static int make_page(struct tw_fabric *f)
{
	struct rings *r = f->own;
	void *at;

	r->page = pool_memory_file(f->spec.name, "routes", sizeof(struct routes));
	if (r->page < 0)
		return r->page;
	r->page_readonly = pool_readonly(r->page);
	at = mmap(NULL, sizeof(struct routes), PROT_READ | PROT_WRITE, MAP_SHARED, r->page, 0);
	if (r->page_readonly < 0 || at == MAP_FAILED)
		return tw_fail(errno,
		               "%s: no page for routes that workers only read: %s; is "
		               "/proc mounted?",
		               f->spec.name, strerror(errno));
	r->routes = at;
	return 0;
}

static int create(struct tw_fabric *f)
{
	struct rings *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return tw_fail(ENOMEM, "%s: no memory for its rings", f->spec.name);
	f->own = r;
	memset(r->files, -1, sizeof(r->files));
	r->page = r->page_readonly = -1;
	rc = make_page(f);
	if (!rc)
		rc = make_file(f, ROUTES_GATE);
	return rc ?: tw_pool_create(&f->pool, f->spec.name, f->spec.memory_mb, -1);
}

static void destroy(struct tw_fabric *f)
{
	struct rings *r = f->own;

	for (uint32_t i = 0; i < ROUTES_FUNCTIONS; i++) {
		rings_unmap(r->table.of[i]);
		if (r->files[i] >= 0)
			close(r->files[i]);
	}
	if (r->routes)
		munmap(r->routes, sizeof(*r->routes));
	if (r->page >= 0)
		close(r->page);
	if (r->page_readonly >= 0)
		close(r->page_readonly);
	free(r);
	f->own = NULL;
}

static struct ring *ring_of(struct tw_fabric *f, uint32_t member)
{
	const struct routes_member *m = &f->routes.member[member];
	struct rings *r = f->own;

	return r->table.of[m->function] ? &r->table.of[m->function][m->instance] : NULL;
}

static int add(struct tw_fabric *f, uint32_t member)
{
	int rc = make_file(f, f->routes.member[member].function);

	if (!rc)
		ring_clear(ring_of(f, member));
	return rc;
}

/* What is in the ring of a member that is gone is not taken any more. What it was sending itself
 * may be on its way and in no ring, or in that of somebody who is gone too: it is its own again. */
static void remove_member(struct tw_fabric *f, uint32_t member)
{
	tw_handle handle = __atomic_load_n(&tw_pool_board(f->pool, member)->sending,
	                                   __ATOMIC_ACQUIRE);
	uint64_t word = tw_pool_word(f->pool, TW_HANDLE_INDEX(handle));
	uint32_t to = TW_OWNER_OF(word);
	struct ring *ring;

	if (TW_GENERATION_OF(word) != TW_HANDLE_GENERATION(handle) ||
	    TW_STATE_OF(word) != TW_BLOCK_SENT || to >= TW_MEMBERS_MAX)
		return;
	ring = f->routes.member[to].state != MEMBER_NONE ? ring_of(f, to) : NULL;
	if (!ring || !ring_has(ring, handle))
		tw_pool_ungive(f->pool, handle, member, to);
}

static int publish_function(struct tw_fabric *f, uint32_t function)
{
	struct rings *r = f->own;

	if (function < f->spec.n_functions) {
		int rc = make_file(f, function);

		if (rc < 0)
			return rc;
	}
	memcpy(&r->routes->function[function], &f->routes.function[function],
	       sizeof(struct routes_function));
	return 0;
}

static int publish_member(struct tw_fabric *f, uint32_t member)
{
	struct rings *r = f->own;
	union {
		struct routes_member member;
		uint32_t whole;
	} now = { .member = f->routes.member[member] };

	__atomic_store_n((uint32_t *)&r->routes->member[member], now.whole, __ATOMIC_SEQ_CST);
	return 0;
}

/* Senders look again at the receiver's state behind a full barrier when they have put something
 * in: either they see that it is gone and take it back, or what they did is seen here. */
static void settle(struct tw_fabric *f)
{
	(void)f;
	atomic_thread_fence(memory_order_seq_cst);
}

static int join(struct tw_fabric *f, uint32_t member, struct tw_join *join, int fds[TW_JOIN_FDS])
{
	uint32_t function = f->routes.member[member].function;
	struct rings *r = f->own;
	uint32_t reach = f->routes.function[function].allow | 1u << function;

	fds[join->n_fds++] = r->page_readonly;
	/* Gate threads look into the engine's own table. */
	if (function == ROUTES_GATE)
		return 0;
	for (uint32_t i = 0; i < ROUTES_FUNCTIONS; i++) {
		if (!(reach >> i & 1) || r->files[i] < 0)
			continue;
		join->is[join->n_fds] = i;
		fds[join->n_fds++] = r->files[i];
	}
	return 0;
}

static void stats(struct tw_fabric *f, uint32_t member, struct tw_member_stats *stats)
{
	const struct tw_member_board *board = tw_pool_board(f->pool, member);
	struct ring *ring = ring_of(f, member);

	stats->in = ring ? atomic_load_explicit(&ring->tail, memory_order_relaxed) : 0;
	stats->out = __atomic_load_n(&board->accepted, __ATOMIC_RELAXED);
	stats->denied = __atomic_load_n(&board->denied, __ATOMIC_RELAXED);
	stats->full = __atomic_load_n(&board->full, __ATOMIC_RELAXED);
	stats->sends = __atomic_load_n(&board->sends, __ATOMIC_RELAXED);
	stats->queued = (int64_t)(stats->in - __atomic_load_n(&board->finished, __ATOMIC_RELAXED));
}

/* A gate thread's link looks where the engine does. */
static void gate_link(struct tw_fabric *f, struct tw_link *link)
{
	struct rings *r = f->own;
	struct ring_end *e = link->own;

	e->table = &r->table;
	e->mine = &r->table.of[ROUTES_GATE][link->member];
}

const struct transport rings_transport = {
	.name = "rings",
	.create = create,
	.destroy = destroy,
	.add = add,
	.remove = remove_member,
	.publish_function = publish_function,
	.publish_member = publish_member,
	.settle = settle,
	.join = join,
	.stats = stats,
	.gate_link = gate_link,
	.open = rings_open,
	.close = rings_close,
	.send = rings_send,
	.receive = rings_receive,
	.ready = rings_ready,
};
