/* SPDX-License-Identifier: BSD-3-Clause */
/* server_block.c - blocks of the pool that responses are received into: how large, and what is done
 * while there are none. */
#include "gate/lane.h"
#include "gate/upstream.h"
#include "error.h"

#include <string.h>

#define MS 1000000ull
#define HEAD_BLOCK 16384
#define LOOK_MAX (2 * MS) /* how often at least an empty pool is asked again */

static struct tw_pool *pool_of(const struct upstream *up)
{
	return up->x->service->pool;
}

/* Pieces of the block may be in x->out still: then the last of them frees it. */
void read_forget(struct upstream *up)
{
	struct body *out = &up->x->out;
	struct body_piece *last = NULL;
	uint32_t i;

	if (!up->block)
		return;
	for (i = 0; i < out->count; i++) {
		struct body_piece *piece = &out->piece[(out->first + i) % BODY_PIECES];

		if (piece->handle == up->block)
			last = piece;
	}
	if (last)
		last->frees = true;
	else
		tw_pool_free(pool_of(up), up->block, up->gate->id);
	up->block = 0;
	up->piece.len = 0;
}

static bool take_block(struct upstream *up, uint32_t bytes)
{
	up->block = tw_pool_new(pool_of(up), bytes, up->gate->id);
	up->mem = up->block ? tw_pool_block(pool_of(up), up->block, &up->size) : NULL;
	up->at = up->end = HTTP_BYTES_AT;
	if (!up->mem)
		gate_count(up->gate, GATE_NO_BLOCK, 1);
	return up->mem;
}

/* A head that does not fit moves to a larger block. */
static bool grow(struct upstream *up)
{
	tw_handle old = up->block;
	uint8_t *mem = up->mem;
	uint32_t at = up->at, end = up->end;

	if (!take_block(up, READ_BLOCK)) {
		up->block = old;
		return false;
	}
	memcpy(up->mem, mem, end);
	gate_count(up->gate, GATE_COPIED, end - HTTP_BYTES_AT);
	up->at = at;
	up->end = end;
	http_in_moved(&up->in, up->mem);
	tw_pool_free(pool_of(up), old, up->gate->id);
	return true;
}

uint32_t read_room_head(struct upstream *up)
{
	bool got = true;
	uint32_t room;

	if (!up->block)
		got = take_block(up, HEAD_BLOCK);
	room = got ? http_in_room(up->size, up->end) : 0;
	if (got && !room) {
		got = up->size < READ_BLOCK && grow(up);
		room = got ? http_in_room(up->size, up->end) : 0;
	}
	if (!room)
		upstream_lost(up, UP_SHORTAGE, "no memory for its response: the pool is empty");
	return room;
}

/* Soon, then less and less often. */
static void starve(struct upstream *up)
{
	uint64_t now = up->gate->now, look = MS;

	if (!up->starved_at)
		up->starved_at = now;
	else if (now - up->starved_at > look)
		look = now - up->starved_at > LOOK_MAX ? LOOK_MAX : now - up->starved_at;
	up->starved = true;
	lane_short(up->x->service, up->gate);
	upstream_watch(up);
	connection_deadline(up->c, now + look);
}

uint32_t read_room_body(struct upstream *up)
{
	uint64_t want = up->want, left = UINT64_MAX;

	if (!up->block) {
		if (up->in.body_len != UINT64_MAX && up->state != UP_RAW)
			left = up->in.body_len - up->body_in + 1; /* one too much is seen */
		want = want > left ? left : want;
		want = want <= 4096 ? want : want + HTTP_BYTES_AT; /* a small one may be short */
		want = want > READ_BLOCK ? READ_BLOCK : want;
		if (!take_block(up, (uint32_t)want)) {
			starve(up);
			return 0;
		}
	}
	return up->size - up->end;
}

void read_starved(struct upstream *up)
{
	uint32_t attempt = up->attempt;

	if (up->gate->now - up->starved_at > up->group->spec->idle_ms * MS) {
		upstream_lost(up, UP_SHORTAGE, "no memory for its response: the pool is empty");
		return;
	}
	up->starved = false;
	upstream_hold(up);
	read_more(up);
	if (!up->dead && up->attempt == attempt && !up->starved && !up->paused) {
		upstream_watch(up);
		connection_deadline(up->c, up->gate->now + up->group->spec->idle_ms * MS);
	}
	upstream_release(up);
}

void read_adapt(struct upstream *up, uint32_t room, uint32_t got)
{
	if (got == room)
		up->want = READ_BLOCK;
	else if (got < up->want / 4 && up->want > 4096)
		up->want /= 4;
	else if (got > up->want / 2 && up->want < READ_BLOCK)
		up->want *= 4;
}
