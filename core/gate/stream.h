/* SPDX-License-Identifier: BSD-3-Clause */
/* stream.h - a TCP connection of a client and the one to a server behind it: what stream.c and
 * stream_relay.c share. */
#pragma once
#include "gate/flow.h"
#include "gate/l4.h"

#include <sys/queue.h>
#include <sys/types.h>

enum stream_state {
	STREAM_PROXY,    /* waits for the PROXY header */
	STREAM_ASKS,     /* functions have the message */
	STREAM_CONNECTS, /* to a server */
	STREAM_RELAYS,
};

/* One of the two connections. */
struct stream_end {
	struct gate_source source; /* fd -1: none */
	struct stream *stream;
	bool watched;
	bool ended;         /* no more bytes come from it */
	bool shut;          /* no more go to it */
	bool waits;         /* for room in its buffer */
	bool starved;       /* the pool had no block */
	uint8_t full_reads; /* blocks that were read full, in a row */
	int pipe[2];        /* of stream_splice.c, -1: none */
	uint32_t piped;     /* bytes in it */
};

struct stream {
	TAILQ_ENTRY(stream) link;
	struct gate *gate;
	struct service *service;
	struct exchange *x; /* NULL: none yet, or no more */
	struct stream_end client, server;
	struct gate_timer timer; /* one of these: PROXY header, connect, no byte either way */
	struct gate_timer retry; /* a block; a server whose queue was full */
	uint64_t moved;          /* gate->now when the last byte moved */
	uint32_t listener, idle_ms;
	uint32_t chain; /* number of the service, which may go while the PROXY header comes */
	uint8_t state;  /* enum stream_state */
	bool dead;      /* everything is given back; freed when `hold` is 0 */
	uint32_t hold;  /* functions that have it on the stack */
	struct proxy_facts facts;
	/* the server */
	struct group_choice choice;
	uint32_t group, key, attempts;
	uint64_t tried;
	bool chosen;    /* group_release() is due */
	uint8_t knocks; /* how often its queue was full */
	bool replies;   /* there is no server: the client gets a function's bytes, and the end */
	/* PROXY header as far as it has come */
	uint8_t *bytes;
	uint32_t n_bytes;
};

static inline void stream_hold(struct stream *s)
{
	s->hold++;
}
/* False: it was ended meanwhile, and is no more. */
bool stream_release(struct stream *s);
/* Closes both connections, with a reset when `reset`, and ends the exchange. */
void stream_end(struct stream *s, bool reset);
/* The server's side failed before a byte has moved: another server, or the end. */
void stream_lost(struct stream *s, const char *why);

/* ---- stream_relay.c ---- */

/* Bytes go both ways: between both connections, or, when there is none to a server, between the
 * client and functions. */
void relay_begin(struct stream *s);
void relay_ready(struct gate *gate, struct gate_source *source, uint32_t events);
/* Registers what an end waits for. */
void relay_watch(struct stream *s, struct stream_end *end);

/* ---- stream_splice.c ---- */

/* Is the pipe the better way for what comes from this end? Opens it. */
bool splice_pays(struct stream *s, struct stream_end *from);
/* From the connection into the pipe: bytes, 0: the end, -errno. */
ssize_t splice_in(struct stream *s, struct stream_end *from);
/* From the pipe to the other connection, which may have to wait; 0 or -errno. */
int splice_out(struct stream *s, struct stream_end *from);
void splice_close(struct stream_end *from);
