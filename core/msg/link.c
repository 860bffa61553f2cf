/* SPDX-License-Identifier: BSD-3-Clause */
/* link.c - a member's end of a fabric, the part that is the same for all transports. */
#include "msg/transport.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STALE_BATCHES 64 /* in one receive */

int tw_link_open(struct tw_link **out, const struct tw_join *join, const int *fds,
                 struct tw_pool *pool)
{
	struct tw_link *link;
	int rc;

	*out = NULL;
	if (join->member >= TW_MEMBERS_MAX || join->n_fds > TW_JOIN_FDS ||
	    !fabric_transport(join->transport))
		return tw_fail(EINVAL, "member %u, %u descriptors, transport %u: that is no link",
		               join->member, join->n_fds, join->transport);
	link = calloc(1, sizeof(*link));
	if (!link)
		return tw_fail(ENOMEM, "no memory for a link");
	link->transport = fabric_transport(join->transport);
	link->pool = pool;
	link->board = tw_pool_board(pool, join->member);
	link->member = join->member;
	link->function = join->function;
	link->fd = -1;
	rc = link->transport->open(link, join, fds);
	if (rc < 0) {
		tw_link_close(link);
		return rc;
	}
	*out = link;
	return 0;
}

void tw_link_close(struct tw_link *link)
{
	if (!link)
		return;
	link->transport->close(link);
	free(link);
}

/* What kind a message is decides which way it goes. The sender knows best: a wrong kind is one
 * more way that is open to it anyway. */
static uint16_t lane_of(struct tw_link *link, tw_handle handle)
{
	const struct tw_msg *msg = tw_pool_peek(link->pool, handle, NULL);
	uint8_t kind = msg ? msg->kind : 0;

	if (kind == TW_MSG_RESPONSE)
		return LANE_RESPONSE;
	if (kind == TW_MSG_DATA)
		return msg->flags & TW_MSG_BACKWARD ? LANE_DATA_BACK : LANE_DATA;
	return LANE_MESSAGE;
}

/* So many of those in hand are done; what was received and is not sent on is done when the next
 * ones are asked for. The board is what others see of it. */
static void finish(struct tw_link *link, uint64_t n)
{
	uint64_t in_hand = link->received - link->finished;

	if (in_hand == 0)
		return;
	link->finished += n < in_hand ? n : in_hand;
	__atomic_store_n(&link->board->finished, link->finished, __ATOMIC_RELEASE);
}

static int sent(struct tw_link *link, struct tw_desc *desc, unsigned n)
{
	int rc = link->transport->send(link, desc, n);

	if (rc > 0)
		finish(link, rc);
	return rc;
}

int tw_link_send(struct tw_link *link, const struct tw_desc *desc, unsigned n)
{
	struct tw_desc out[TW_DESC_BATCH];

	if (n > TW_DESC_BATCH)
		n = TW_DESC_BATCH;
	if (n == 0)
		return 0;
	if (link->function == ROUTES_GATE)
		return -EPERM; /* gates enter */
	for (unsigned i = 0; i < n; i++) {
		out[i] = desc[i];
		if (out[i].exit >= TW_EXITS_MAX)
			out[i].exit = TW_EXITS_MAX; /* refused there, and counted */
		out[i].exit |= lane_of(link, desc[i].handle) << ROUTES_LANE_SHIFT;
	}
	return sent(link, out, n);
}

static int enter(struct tw_link *link, uint16_t target, const struct tw_desc *desc, unsigned n)
{
	struct tw_desc out[TW_DESC_BATCH];

	if (n > TW_DESC_BATCH)
		n = TW_DESC_BATCH;
	if (n == 0)
		return 0;
	if (link->function != ROUTES_GATE)
		return -EPERM;
	for (unsigned i = 0; i < n; i++) {
		out[i] = desc[i];
		out[i].exit = TW_EXIT_NEXT;
		out[i].gate = target;
	}
	return sent(link, out, n);
}

int tw_link_enter(struct tw_link *link, uint32_t function, const struct tw_desc *desc, unsigned n)
{
	return function < TW_STAGES_MAX ? enter(link, function, desc, n) : -EPERM;
}

int tw_link_direct(struct tw_link *link, uint32_t member, const struct tw_desc *desc, unsigned n)
{
	return member < TW_MEMBERS_MAX ? enter(link, ROUTES_DIRECT | member, desc, n) : -EPERM;
}

int tw_link_receive(struct tw_link *link, struct tw_desc *desc, unsigned max)
{
	unsigned kept = 0;
	int n = 0;

	finish(link, UINT64_MAX);
	if (max > TW_DESC_BATCH)
		max = TW_DESC_BATCH;
	/* A whole batch of stale ones is not the end; but nobody keeps us here with them. */
	for (int round = 0; round < STALE_BATCHES && !kept && max; round++) {
		n = link->transport->receive(link, desc, max);
		if (n <= 0)
			break;
		link->received += n;
		for (int i = 0; i < n; i++)
			if (tw_pool_take(link->pool, desc[i].handle, link->member) == 0) {
				desc[kept] = desc[i];
				link->sender[kept] = desc[i].exit >> ROUTES_LANE_SHIFT;
				desc[kept++].exit &= 0xff;
			}
		finish(link, n - kept);
	}
	return n < 0 ? n : (int)kept;
}

uint32_t tw_link_sender(const struct tw_link *link, unsigned n)
{
	return n < TW_DESC_BATCH ? link->sender[n] : 0;
}

int tw_link_fd(const struct tw_link *link)
{
	return link->fd;
}

bool tw_link_ready(struct tw_link *link)
{
	return link->transport->ready(link);
}
