/* SPDX-License-Identifier: BSD-3-Clause */
/* sk_msg_link.c - descriptors over sockets, a member's side: one send for many, one receive for all
 * that are there. */
#include "error.h"
#include "msg/sk_msg.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct sk_msg_end {
	/* A descriptor of which only a part has come. */
	uint8_t part[sizeof(struct tw_desc)];
	unsigned part_len;
	/* Refused behind others that were accepted, and for good. */
	struct tw_desc refused;
	int why;
};

int sk_msg_open(struct tw_link *link, const struct tw_join *join, const int *fds)
{
	if (join->n_fds != 3 || fds[2] < 0)
		return tw_fail(EINVAL, "sk_msg needs a socket, and %u descriptors came",
		               join->n_fds);
	link->own = calloc(1, sizeof(struct sk_msg_end));
	if (!link->own)
		return tw_fail(ENOMEM, "no memory for a link");
	link->fd = fds[2];
	return 0;
}

void sk_msg_close(struct tw_link *link)
{
	free(link->own);
}

/* Why the kernel has not taken the first one; err: what the send itself said. */
static int why(const struct tw_link *link, int err)
{
	switch (__atomic_load_n(&link->board->refused, __ATOMIC_RELAXED)) {
	case WHY_STALE:
		return -ESTALE;
	case WHY_DENIED:
		return -EPERM;
	case WHY_FULL:
		return -EAGAIN;
	case WHY_NOBODY:
		return -ENOTCONN;
	default:
		return err == EAGAIN || err == ENOMEM || err == ENOBUFS ? -EAGAIN : -ENOTCONN;
	}
}

/* The program let them pass, and the receiver's queue did not take them (no memory, or it has just
 * been removed): nobody has them. */
static void back(struct tw_link *link, const struct tw_desc *desc, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t word = tw_pool_word(link->pool, TW_HANDLE_INDEX(desc[i].handle));

		tw_pool_ungive(link->pool, desc[i].handle, link->member, TW_OWNER_OF(word));
	}
}

/* The board says how many were accepted, the result of send() how many bytes have gone anywhere:
 * those that were accepted first. */
static unsigned push(struct tw_link *link, const struct tw_desc *desc, unsigned n, int *err)
{
	struct tw_member_board *board = link->board;
	uint64_t before = __atomic_load_n(&board->accepted, __ATOMIC_ACQUIRE), accepted;
	uint64_t gone;
	ssize_t len;

	__atomic_store_n(&board->refused, WHY_NONE, __ATOMIC_RELAXED);
	do {
		len = send(link->fd, desc, n * sizeof(*desc), MSG_DONTWAIT | MSG_NOSIGNAL);
		*err = len < 0 ? errno : 0;
	} while (*err == EINTR && __atomic_load_n(&board->accepted, __ATOMIC_ACQUIRE) == before);
	fabric_bump(&board->sends, 1);
	gone = len > 0 ? (uint64_t)len / sizeof(*desc) : 0;
	accepted = __atomic_load_n(&board->accepted, __ATOMIC_ACQUIRE) - before;
	if (accepted > n) /* not what the kernel writes there */
		accepted = gone;
	if (accepted > gone) {
		back(link, desc + gone, accepted - gone);
		accepted = gone;
	}
	return (unsigned)accepted;
}

int sk_msg_send(struct tw_link *link, struct tw_desc *desc, unsigned n)
{
	struct sk_msg_end *end = link->own;
	unsigned accepted;
	int err = end->why;

	end->why = 0;
	if (err && !memcmp(&end->refused, desc, sizeof(*desc)))
		return err;
	accepted = push(link, desc, n, &err);
	if (accepted == n)
		return (int)n;
	err = why(link, err);
	if (accepted == 0)
		return err;
	/* Asked for again it would be counted again. */
	if (err == -EPERM || err == -ESTALE) {
		end->refused = desc[accepted];
		end->why = err;
	}
	return (int)accepted;
}

int sk_msg_receive(struct tw_link *link, struct tw_desc *desc, unsigned max)
{
	struct sk_msg_end *end = link->own;
	uint8_t *to = (uint8_t *)desc;
	ssize_t len;
	size_t all;

	memcpy(to, end->part, end->part_len);
	len = recv(link->fd, to + end->part_len, max * sizeof(*desc) - end->part_len, MSG_DONTWAIT);
	if (len <= 0)
		return len == 0 || errno == EAGAIN || errno == EINTR ? 0 : -ENOTCONN;
	all = end->part_len + len;
	end->part_len = all % sizeof(*desc);
	memcpy(end->part, to + all - end->part_len, end->part_len);
	return (int)(all / sizeof(*desc));
}

bool sk_msg_ready(struct tw_link *link)
{
	struct pollfd set = { .fd = link->fd, .events = POLLIN };

	return poll(&set, 1, 0) > 0;
}
