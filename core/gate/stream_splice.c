/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_splice.c - bytes of a stream that fills block after block, from one connection to the
 * other through a pipe: the kernel hands over its own pages, and nothing is copied. What fits a
 * block is cheaper by way of one.
 */
#include "gate/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
	PIPE = 256 << 10,
	LITTLE = 32 << 10, /* less than this at once: back to blocks */
	FULL_READS = 4,    /* blocks that were read full in a row, before a pipe is worth it */
};

void splice_close(struct stream_end *from)
{
	if (from->pipe[0] < 0)
		return;
	close(from->pipe[0]);
	close(from->pipe[1]);
	from->pipe[0] = from->pipe[1] = -1;
	from->piped = 0;
}

bool splice_pays(struct stream *s, struct stream_end *from)
{
	struct exchange *x = s->x;
	struct stream_end *to = from == &s->client ? &s->server : &s->client;
	if (from->full_reads < FULL_READS || x->in.filter || x->out.filter || to->waits ||
	    to->source.fd < 0 || (from == &s->client ? &x->in : &x->out)->count)
		return false;
	if (from->pipe[0] >= 0)
		return true;
	if (pipe2(from->pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
		from->pipe[0] = from->pipe[1] = -1;
		from->full_reads = 0;
		return false;
	}
	fcntl(from->pipe[1], F_SETPIPE_SZ, PIPE);
	return true;
}

static ssize_t move(struct stream *s, int from, int to, size_t most)
{
	ssize_t n;
	do {
		n = splice(from, NULL, to, NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		gate_count(s->gate, GATE_SYSCALLS, 1);
	} while (n < 0 && errno == EINTR);
	return n;
}

int splice_out(struct stream *s, struct stream_end *from)
{
	struct stream_end *to = from == &s->client ? &s->server : &s->client;
	while (from->piped && !to->waits) {
		ssize_t n = move(s, from->pipe[0], to->source.fd, from->piped);
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n < 0) {
			to->waits = true;
			break;
		}
		from->piped -= (uint32_t)n;
		s->moved = s->gate->now;
		/* As if they had gone through the body: the service counts there. */
		(to == &s->client ? &s->x->out : &s->x->in)->went += (uint64_t)n;
		gate_count(s->gate, to == &s->client ? GATE_BYTES_OUT : GATE_UP_BYTES_OUT,
		           (uint64_t)n);
	}
	if (!from->piped && from->full_reads == 0)
		splice_close(from);
	return 0;
}

ssize_t splice_in(struct stream *s, struct stream_end *from)
{
	ssize_t n = move(s, from->source.fd, from->pipe[1], PIPE);
	if (n < 0)
		return -errno;
	from->piped += (uint32_t)n;
	if (n < LITTLE)
		from->full_reads = 0;
	(from == &s->client ? &s->x->in : &s->x->out)->came += (uint64_t)n;
	gate_count(s->gate, from == &s->client ? GATE_BYTES_IN : GATE_UP_BYTES_IN, (uint64_t)n);
	return n;
}
