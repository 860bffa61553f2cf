/* SPDX-License-Identifier: BSD-3-Clause */
/* lane.h - a service as one gate thread has it, and exchanges on their way through its functions:
 * what flow.c and the files around it share. */
#pragma once
#include "gate/flow.h"

#include <sys/queue.h>

#define FLOW_WAIT_NS 80000000ull   /* for an instance, or for room in a queue; 503 */
#define FLOW_PATROL_NS 20000000ull /* looks at instances, while messages are with functions */
#define FLOW_STUCK_NS 1000000000ull
#define FLOW_REQUEST_NS 60000000000ull /* deadline of exchanges without a listener */
#define FLOW_FETCHES_MAX 16            /* of one exchange at a time */
#define FLOW_QUEUE 4                   /* pieces that wait for functions that take data */
#define FLOW_COPY_MAX 2048             /* pieces up to this lie in the message itself */

/* A field of a message, read once: functions may write to it at any time. */
#define ONCE(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

enum { WAY_IN = 0, WAY_OUT = 1, WAYS }; /* from the client; to the client */

/* Pieces of a body that lie still. */
struct pieces {
	uint32_t n, next;
	uint64_t bytes;
	uint32_t room; /* bytes behind the last piece in its block */
	/* With what waited in a body when it turned out that it cannot be whole. */
	struct body_piece piece[TW_BODY_BLOCKS_MAX + BODY_PIECES + 1];
};

enum out_place { OUT_IDLE, OUT_QUEUED, OUT_AWAY, OUT_INLINE /* held by a function */ };
enum out_what { OUT_REQUEST, OUT_RESPONSE, OUT_DATA };

struct flow;

/* A message for functions: it waits for its way there, or is with them. */
struct out {
	TAILQ_ENTRY(out) link;
	struct flow *flow;
	tw_handle handle;
	uint8_t place, what, way;
	bool retried;
	uint16_t function; /* by which it enters */
	uint64_t since;    /* waits since */
};
TAILQ_HEAD(out_queue, out);

/* One direction of a body that goes through functions piece by piece. */
struct data {
	struct out out;
	struct gate_task kick;
	struct body_piece queue[FLOW_QUEUE], sent; /* sent: what is with the functions now */
	uint32_t first, count;
	bool open, end, end_sent, end_back, passing, replying;
	struct pieces staged; /* what came back */
	struct pieces *reply; /* NULL: none; waits for room in the other direction */
	uint32_t replier;     /* the function behind which the message goes on then */
};

struct way {
	struct pieces *whole; /* gathered, or set by a function */
	struct data *data;    /* NULL: no function takes data */
	bool feeds;           /* body comes from `whole` */
	bool feeding, discards;
	bool passes;          /* it cannot be whole: nobody asks again */
	bool rest, rest_ends; /* `whole` is its beginning only; what follows has come to its end */
	uint64_t reserved;    /* bytes of the pool for a body that is to be whole */
};

/* An exchange and its way. Memory of a slot stays: an id that fits says that it is still the same.
 */
struct flow {
	struct exchange x;
	struct lane *lane;
	struct out head; /* request or response */
	struct way way[WAYS];
	TAILQ_ENTRY(flow) starts;
	bool starting, counted, failed;
	uint16_t own; /* status of the gate's own answer, which functions see; 0: none */
	const char *own_why;
	bool bodied;                    /* exchange_begin's `body` */
	uint8_t kind;                   /* of the request: enum tw_msg_kind */
	struct fetch *fetch;            /* it is a function's fetch */
	uint64_t patience, moved, seen; /* exchange.c: the deadline */
	uint32_t from;                  /* responses: functions below this one */
	uint32_t client_key;            /* of its address */
	uint32_t next_free, n_fetches;
	struct fetch *fetches; /* that functions have made for it */
};

/* What instances are doing, as the patrol last saw it. */
struct watched {
	uint64_t current, started, cpu_ns, since;
};

/* Written by its thread between two changes of `seq`; see stats.c. */
struct tally {
	_Atomic uint32_t seq;
	uint64_t requests, responses, failed, in_flight, bytes_in, bytes_out;
	uint64_t status[6], time[TW_TIME_BUCKETS];
};

struct lane {
	struct gate *gate;
	struct service *service;
	struct tw_link *link; /* NULL: inline */
	struct tw_service_spec spec;
	uint32_t messages, responses, data, whole, whole_back; /* functions, bit by bit */
	struct out_queue queue[TW_STAGES_MAX];
	uint32_t queued;        /* functions with something in their queue */
	struct answer *answers; /* fetch.c: that find no room */
	uint32_t away;          /* messages that functions have */
	bool polls, polling, leaving, stray, by_address;
	struct gate_task send, start;
	TAILQ_HEAD(flow_starts, flow) starts;
	struct gate_timer patrol;
	uint64_t strays;                       /* messages that came back to nobody */
	uint32_t members[TW_MEMBERS_MAX / 32]; /* instances that are there */
	struct sweep *sweep;                   /* patrol.c */
	uint64_t swept;
	uint64_t reserved;    /* bytes for bodies that are to be whole, of all its exchanges */
	uint64_t short_until; /* the pool owes a block to requests that have begun: none begins */
	struct watched *watched; /* by member */
	struct tally tally;
	/* By block: the number of the exchange whose message was last put there, and 1. Functions
	 * cannot write here, so what comes back from them is found whatever they have written. */
	uint32_t blocks, at[];
};

/* A body that has begun finds no block. Without this every block that comes free would go to a new
 * request, of which there are always more, and nothing would ever be done. */
#define LANE_SHORT_NS 20000000u

static inline void lane_short(struct service *service, const struct gate *gate)
{
	struct lane *lane = service->lane[gate->id];

	if (lane) /* a fetch can outlive it for a moment */
		lane->short_until = gate->now + LANE_SHORT_NS;
}

static inline struct flow *flow_of(struct exchange *x)
{
	return (struct flow *)x;
}

static inline struct body *flow_body(struct flow *f, int way)
{
	return way == WAY_IN ? &f->x.in : &f->x.out;
}

static inline bool flow_lives(const struct flow *f, uint64_t id)
{
	return f->x.state != X_FREE && f->x.id == id;
}

/* The lowest function of `mask` from `from` on, the highest below `below`; -1: none. */
static inline int function_from(uint32_t mask, uint32_t from)
{
	uint32_t m = from < 32 ? mask & ~((1u << from) - 1) : 0;

	return m ? __builtin_ctz(m) : -1;
}

static inline int function_below(uint32_t mask, uint32_t below)
{
	uint32_t m = below < 32 ? mask & ((1u << below) - 1) : mask;

	return m ? 31 - __builtin_clz(m) : -1;
}

/* ---- exchange.c ---- */

struct flow *flow_new(struct lane *lane, const struct exchange_client *client, void *client_data,
                      tw_handle message);
void flow_free(struct flow *f);
struct flow *flow_find(struct gate *gate, uint32_t number);
/* Fields that functions may have written over are as they were. */
void flow_mend(struct flow *f, struct tw_msg *msg, uint32_t size, tw_handle self, uint8_t kind);

/* ---- lane.c: messages to functions and back ---- */

void lane_take(struct lane *lane); /* the specification is another one: masks */
void lane_put(struct lane *lane, struct out *out, uint32_t function);
void lane_receive(struct lane *lane);
void lane_ready(struct gate *gate, struct gate_source *source, uint32_t events);
void lane_send(struct lane *lane); /* what waits, now */
/* Nothing of it is under way any more; a block that a live function has stays lost to it. */
void out_cancel(struct flow *f, struct out *out);
/* It is back, or was never away. */
void out_home(struct lane *lane, struct out *out);

/* ---- flow.c ---- */

void flow_start(struct flow *f);
/* The gate's own answer goes to the client, or its connection ends. `why`: a constant, for clients.
 */
void flow_fail(struct flow *f, int status, const char *why);
void flow_gathered(struct flow *f, int way);
/* Hands the message to a function, at the end of the turn. */
void flow_call(struct flow *f, struct out *out, uint32_t function);
/* A descriptor has come, the gate holds its block. */
void flow_returned(struct lane *lane, const struct tw_desc *desc, uint32_t sender);
/* Which of them this message is, when it is at that place; NULL: none. */
struct out *flow_out(struct flow *f, tw_handle handle, uint8_t place);
uint8_t flow_kind(const struct flow *f, const struct out *out); /* enum tw_msg_kind */
/* A message is back in the gate's hands. `said`: the verdict of the descriptor, 0: the message's.
 */
void flow_back(struct flow *f, struct out *out, uint32_t exit, uint32_t said, uint32_t sender);
/* The response goes to functions below this one, then to the client. */
void flow_response(struct flow *f, uint32_t below);

/* The function behind this one on the message's way, -1: none; goes on there, or to the end. */
int flow_behind(const struct flow *f, const struct out *out, uint32_t function);
void flow_go_on(struct flow *f, struct out *out, uint32_t function);
void flow_to_upstream(struct flow *f, int32_t group, uint32_t key);
void flow_respond(struct flow *f); /* the response is through */
void flow_drop(struct flow *f);

/* ---- own.c ---- */

/* The same, but as a response that goes to functions below this one first, where there are some. */
void flow_refuse(struct flow *f, uint32_t below, int status, const char *why);

/* ---- say.c ---- */

/* gate_say() with the chain in front; `function`: whose it is, UINT32_MAX: nobody's. */
void flow_say(struct flow *f, uint32_t function, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- verdict.c ---- */

/* What came, or will come, from a server is not wanted any more: 0, -ENOMEM. */
int flow_forget_response(struct flow *f);
/* Nor is what the client still sends. */
void flow_forget_request(struct flow *f);

/* No instance could be found, or the way there is closed: -ENOTCONN, -EAGAIN, -EPERM, -ESTALE. */
void flow_nobody(struct flow *f, struct out *out, int error);
/* The function has failed with it: its policy. The gate holds the block. */
void flow_fault(struct flow *f, struct out *out, uint32_t function, const char *why);
void flow_verdict(struct flow *f, struct out *out, uint8_t verdict, uint32_t function);

/* ---- gather.c: whole bodies ---- */

void gather_begin(struct flow *f, int way);

/* ---- pieces.c: what functions say of bodies ---- */

/* What the message says of its body now: 0 or -errno. `whole` is new when it was set anew. */
int gather_adopt(struct flow *f, int way, struct tw_msg *msg, uint32_t size, tw_handle self);
/* A message ends here: blocks that a function put into its body, and nobody took, are freed. */
void gather_forget(struct lane *lane, tw_handle handle);
/* The pieces that body[] names, each checked. `lent`: blocks the gate had put there. */
int pieces_from(struct lane *lane, struct tw_msg *msg, uint32_t size, tw_handle self,
                bool self_frees, const struct body_piece *lent, uint32_t n_lent, struct pieces *to);
/* The same of those in front of the last n_on, which stay in the message: each has a block of its
 * own. */
int pieces_split(struct lane *lane, struct tw_msg *msg, tw_handle self, struct pieces *to);
struct pieces *pieces_new(void);
void pieces_free(struct lane *lane, struct pieces *pieces);
/* Names them in the message, in its free room; false: there is none. */
bool trailers_put(struct tw_msg *msg, uint32_t size, const struct http_trailers *trailers);
void pieces_add(struct pieces *to, const struct body_piece *piece);
/* Its block, when it frees one. */
void piece_free(struct lane *lane, const struct body_piece *piece);
/* Takes a block that a function says it has given: false: it is not. */
bool lane_own(struct lane *lane, tw_handle handle);

/* ---- feed.c: and to who takes them ---- */

/* The body comes from `whole` from now on, or not at all. */
void feed_begin(struct flow *f, int way);
void feed_more(struct flow *f, int way);
void feed_discard(struct flow *f, int way);
extern const struct body_filter flow_filter;

/* ---- data.c ---- */

int data_begin(struct flow *f, int way);
void data_open(struct flow *f, int way); /* its head is through */
/* What came before its body was to be whole goes back there. */
void data_return(struct flow *f, int way);
bool data_room(const struct data *d);
void data_put(struct flow *f, int way, const struct body_piece *piece); /* NULL: the end */
void data_moved(struct flow *f, int way);                               /* the consumer has room */
/* The message is through. `as_was`: no function is believed. */
void data_through(struct flow *f, int way, bool as_was);
void data_reply(struct flow *f, int way, uint32_t function); /* TW_V_REPLY */
void data_free(struct flow *f, int way);

/* ---- fetch.c ---- */

/* A function's request, for the exchange that it says (NULL: none); the gate holds its block. */
void fetch_begin(struct lane *lane, struct flow *parent, tw_handle request);
void fetch_go(struct flow *f);                                /* begun at the end of the turn */
void fetch_cancel(struct flow *parent);                       /* all of them */
void fetch_member_gone(struct flow *parent, uint32_t member); /* who waited for it */
void fetch_again(struct lane *lane);                          /* answers that found no room */
void fetch_forget(struct lane *lane, uint32_t member);        /* those for it; UINT32_MAX: all */

/* ---- patrol.c ---- */

void patrol_on(struct lane *lane);
void patrol_free(struct lane *lane);
void patrol_forget(struct lane *lane); /* of a thread that has ended */

/* ---- stats.c ---- */

void tally_begin(struct lane *lane);
void tally_end(struct lane *lane, const struct exchange *x, bool failed);
void tally_sent(struct lane *lane, uint64_t bytes); /* to a client, by no exchange */
