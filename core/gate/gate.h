/* SPDX-License-Identifier: BSD-3-Clause */
/* gate.h - the gate: what its files share. A gate thread owns connections, and everything in here
 * belongs to one thread unless it says otherwise. */
#pragma once
#include "msg/pool.h"

#include <netinet/in.h>
#include <sys/epoll.h>

struct gate;
struct exchange;

/* ---- loop.c: descriptors, timers, tasks ---- */

struct gate_source {
	int fd;
	uint32_t interest; /* EPOLLIN, EPOLLOUT as registered */
	void (*ready)(struct gate *gate, struct gate_source *source, uint32_t events);
};
int gate_watch(struct gate *gate, struct gate_source *source,
               uint32_t interest); /* add or change */
void gate_unwatch(struct gate *gate,
                  struct gate_source *source); /* events of this turn are dropped too */
/* The same, and closes the descriptor, which must be nobody else's; fd is -1 then. One call. */
void gate_close(struct gate *gate, struct gate_source *source);

struct gate_timer {
	uint64_t due;   /* ns, as gate->now; 0: not set */
	uint32_t place; /* in the heap */
	void (*fire)(struct gate *gate, struct gate_timer *timer);
};
void gate_timer_set(struct gate *gate, struct gate_timer *timer, uint64_t due);
void gate_timer_cancel(struct gate *gate, struct gate_timer *timer);

/* Done at the end of this turn, once, in order. */
struct gate_task {
	struct gate_task *next;
	bool queued;
	void (*run)(struct gate *gate, struct gate_task *task);
};
void gate_later(struct gate *gate, struct gate_task *task);
void gate_forget(struct gate *gate, struct gate_task *task);

/* say.c: a line for the engine's log; the same one at most once a second, then with how many were
 * left out. */
void gate_say(const struct gate *gate, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- what a thread has ---- */

struct service; /* a chain: one object for all threads, with a part per thread (flow.h) */
struct group;   /* upstream servers, as this thread knows them (upstream.h) */

enum gate_counter {
	GATE_CONNECTIONS, /* accepted */
	GATE_REFUSED,     /* for the limit */
	GATE_REQUESTS,
	GATE_RESPONSES,
	GATE_BAD_REQUESTS, /* 400, 431, 413, 501, 505 */
	GATE_TIMEOUTS,
	GATE_BYTES_IN,
	GATE_BYTES_OUT, /* clients */
	GATE_UP_CONNECTIONS,
	GATE_UP_REUSED,
	GATE_UP_FAILED,
	GATE_UP_BYTES_IN,
	GATE_UP_BYTES_OUT,
	GATE_RETRIES,
	GATE_FAULTS,
	GATE_NO_BLOCK,
	GATE_TURNS,
	GATE_SYSCALLS,
	GATE_COPIED, /* bytes of payload copied */
	GATE_COUNTERS = 32
};

struct gate {
	uint32_t id; /* member number in every service */
	int epoll;
	uint64_t now;           /* CLOCK_MONOTONIC, ns; read once a turn */
	uint64_t wall, wall_of; /* gate_wall(): in the turn of which `now` */
	struct service *service[TW_SERVICES_MAX];
	struct group *group[TW_GROUPS_MAX];
	void *listeners;                        /* listener.c */
	void *vm;                               /* inline.c: functions that run in this thread */
	void *streams, *datagrams;              /* stream.c, datagram.c */
	uint32_t connections[TW_LISTENERS_MAX]; /* open now */
	bool draining;
	_Atomic uint64_t counter[GATE_COUNTERS]; /* written by this thread, relaxed */
	/* exchanges by number */
	struct exchange **exchanges;
	uint32_t n_exchanges, free_exchange;
	uint32_t open_exchanges;
	uint64_t next_exchange; /* ids */
	/* Refined: services whose transport polls and that have messages under way. While it is not
	 * 0 the loop does not sleep, and calls flow_poll() every turn. */
	uint32_t polling;
	void *loop; /* loop.c's own */
};

/* CLOCK_REALTIME, ns, of this turn: read when it is asked for first. */
uint64_t gate_wall(struct gate *gate);

static inline void gate_count(struct gate *gate, enum gate_counter which, uint64_t n)
{
	atomic_store_explicit(&gate->counter[which],
	                      atomic_load_explicit(&gate->counter[which], memory_order_relaxed) + n,
	                      memory_order_relaxed);
}

/* ---- body.c: bytes on their way, bounded ---- */

#define BODY_PIECES 8

/* Bytes in a block of the service's pool that the gate holds. */
struct body_piece {
	tw_handle handle;
	uint32_t at, len;
	bool frees; /* the last piece of its block: who has used it up frees the block */
};

/* Between a producer and a consumer, each of which is told when the other has moved. */
struct body {
	struct body_piece piece[BODY_PIECES];
	uint32_t first, count;
	uint64_t came; /* bytes that the producer has ever put in */
	uint64_t went; /* that the consumer has used or taken; others, where functions changed them
	                */
	struct http_trailers *trailers; /* NULL: none; known when it has ended */
	bool ended;                     /* the producer has put in the last byte */
	bool broken;                    /* the producer will not, or the consumer takes no more */
	/* Called by body_put(), body_end(), body_break() / body_take(); may be NULL. Not
	 * re-entered. */
	void (*ready)(struct body *body);
	void (*room)(struct body *body);
	void *consumer, *producer;
	/* Refined: flow.c may stand between the two (functions that take data, bodies that a
	 * function replaced); NULL: nobody. Producers and consumers need not know. */
	const struct body_filter *filter;
	void *filtered; /* the filter's own */
};
/* With a filter, body_has_room() asks room(), body_put() and body_end() call put() (NULL: the end)
 * instead of doing anything themselves, and used() is called instead of the producer's room().
 * body_break() sets `broken` and calls ready() and room() as ever. */
struct body_filter {
	bool (*room)(const struct body *body);
	void (*put)(struct body *body, const struct body_piece *piece);
	void (*used)(struct body *body);
};
/* What comes out of the filter: as body_has_room(), body_put(), body_end() without one. */
bool body_passes(const struct body *body);
void body_pass(struct body *body, const struct body_piece *piece);
void body_pass_end(struct body *body);
void body_ask(struct body *body); /* the filter has room again: the producer's room() */
bool body_has_room(const struct body *body);
void body_put(struct body *body,
              const struct body_piece *piece); /* the caller has looked for room */
void body_end(struct body *body);
void body_break(struct body *body);
const struct body_piece *body_head(const struct body *body); /* NULL: nothing there now */
/* The n-th from the head, for who sends several at once; NULL: not so many. */
const struct body_piece *body_nth(const struct body *body, uint32_t n);
uint64_t body_there(const struct body *body); /* bytes */
/* So many bytes of the head were used; frees blocks, calls room(). */
void body_used(struct exchange *x, struct body *body, uint32_t bytes);
/* The head is taken out, and nobody is told: it stays in the gate, which brings it back. */
void body_pop(struct body *body);
/* Takes the head out; its block, when it frees one, is the caller's now. Calls room(). False: there
 * is none. */
bool body_take(struct body *body, struct body_piece *piece);
/* Frees what is in it; it is as new, its callbacks are forgotten. Before its memory is freed too:
 * a callback of it that is under way comes back to find it gone. */
void body_clear(struct exchange *x, struct body *body);

/* ---- exchanges: one request and its response, one stream, one datagram (flow.c) ---- */

/* Who began an exchange: an HTTP connection (client.c), a stream (stream.c), a datagram
 * (datagram.c), a function's fetch (fetch.c). Called in the exchange's thread. */
struct exchange_client {
	const char *name;
	/* The head in x->resp is in the gate's hands and final; its body comes by x->out. Called
	 * once. */
	void (*respond)(struct exchange *x);
	/* The gate's own answer, with a body that says why; instead of respond, or, when that was
	 * already called, the end of the connection. */
	void (*fail)(struct exchange *x, int status, const char *why);
	void (*close)(struct exchange *x); /* TW_V_DROP: not a word more */
	void (*upgraded)(
		struct exchange *x); /* 101 was sent: bytes go both ways by x->in and x->out */
	/* Streams and datagrams (messages of kind OPEN and DATAGRAM); NULL for others: instead of
	 * upstream_begin(). The functions have let it pass, to a server of this group, with which
	 * the client's side speaks itself: bytes come by x->in. When it is connected to a server it
	 * calls flow_answered() without a response; that calls respond(), and bytes go both ways.
	 * A datagram ends with forward(), or has the answer as its response. */
	void (*forward)(struct exchange *x, uint32_t group, uint32_t key);
	/* HTTP; NULL for others, which get none. An interim response of this status, before
	 * respond(); `head` is good until it returns. Nothing is ended in it. */
	void (*interim)(struct exchange *x, const struct tw_msg *head, uint32_t size,
	                unsigned status);
};

enum exchange_state {
	X_FREE,
	X_GATHER /* a body that is to be whole */,
	X_FUNCTIONS,
	X_UPSTREAM,
	X_RESPONSE /* in functions */,
	X_RESPOND /* to the client */,
	X_STREAM,
	X_DONE
};

struct exchange {
	struct gate *gate;
	struct service *service;
	uint32_t number;
	uint64_t id;
	uint8_t state; /* enum exchange_state */
	bool client_gone;
	bool responded; /* client->respond or fail was called */
	const struct exchange_client *client;
	void *client_data;
	tw_handle request, response; /* 0: none */
	struct tw_msg *req,
		*resp; /* their memory; functions may write to it at any time: copy, then check */
	struct body in, out; /* from the client; to the client */
	/* what the gate knows for sure, unlike the messages */
	uint16_t stage;    /* function that has it */
	uint16_t attempts; /* upstream servers tried */
	uint16_t listener;
	int32_t group;
	bool head, upgrade, keep, body_expected;
	/* Refined: bytes that will come by in and out, UINT64_MAX: not known (chunked, or functions
	 * may change it). Framing is made from these, never from the messages. body_expected: there
	 * is a request body; body_back: there is a response body. */
	uint64_t in_len, out_len;
	bool body_back;
	bool made;       /* out_len is that of a body which is here, also when the method is HEAD */
	uint16_t status; /* of the response, as it was in the gate's hands */
	void *upstream;  /* upstream.c: its part, NULL: none */
	void *flow;      /* flow.c: its part */
	uint64_t begun;
	struct gate_timer timeout; /* request_ms */
};

/* A new exchange over a message that the caller has filled in a block which the gate holds. It is
 * on its way through the functions when this returns: nothing of client is called before. NULL: no
 * room (503). Takes over the block, also when it fails. Body bytes follow by body_put(&x->in, ...)
 * when `body` is true; their length is the message's body_len. A message that brings all of its
 * body itself (datagrams) has TW_MSG_WHOLE and body[], and `body` is false. When nobody will take
 * (more of) the body, x->in.broken is set. */
struct exchange *exchange_begin(struct gate *gate, struct service *service,
                                const struct exchange_client *client, void *data, tw_handle message,
                                bool body);
/* The client has gone: everything is given up, nothing of client is called any more. */
void exchange_client_gone(struct exchange *x);
/* The client has sent the whole response (or its own failure): blocks are freed, x is no more. */
void exchange_end(struct exchange *x);

/* Refined: the exchanges of a thread that stops are given up, its table is freed. */
void exchange_stop(struct gate *gate);
/* Refined, listener.c: NULL: none of that number. */
const struct tw_listener_spec *gate_listener_spec(const struct gate *gate, uint32_t index);

/* group.c: a thread begins: it takes the upstream groups there are; and ends, when its exchanges
 * have: everything it has of them is closed. Both in that thread. */
int groups_open(struct gate *gate);
void groups_close(struct gate *gate);

/* ---- between flow.c and upstream.c ---- */

/* x->req goes to a server of the group: its head, then x->in. Calls one of the two below, at once
 * or later; x->req and x->in are not touched by flow.c meanwhile. */
void upstream_begin(struct exchange *x, uint32_t group, uint32_t key);
/* Gives it up; nothing is called any more. */
void upstream_cancel(struct exchange *x);
/* The head of the response is in x->response / x->resp, its body comes by x->out. Refined: both 0
 * for streams and datagrams, whose bytes come by x->out; the response's body_len and TW_MSG_BODY
 * are right when this is called. 1xx but 101 are never given here. */
void flow_answered(struct exchange *x);
/* An interim response but 100 and 101: goes past the functions to the client, or nowhere. `head`
 * stays upstream.c's; nothing is ended by it. */
void flow_interim(struct exchange *x, const struct tw_msg *head, uint32_t size, unsigned status);
void flow_failed(struct exchange *x, int status, const char *why);
