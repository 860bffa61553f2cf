/* SPDX-License-Identifier: BSD-3-Clause */
/* upstream.h - groups of servers as a gate thread knows them, connections to servers, and the
 * server's side of an exchange. Of one gate thread, unless it says otherwise. */
#pragma once
#include "gate/flow.h"
#include "gate/http.h"

#include <pthread.h>

struct connection;
struct upstream;
struct health_check;

/* ---- group.c ---- */

/* What a thread says of a server; others read it. */
struct server_figures {
	_Atomic uint64_t requests, failures;
	_Atomic uint32_t active, idle;
} __attribute__((aligned(64)));

/* A server, for all threads: whether it is down, and its figures. Lives as long as a table or a
 * thread has it. */
struct server_shared {
	_Atomic uint32_t refs;
	char name[TW_NAME_LEN], group[TW_NAME_LEN];
	char host[TW_HOST_LEN]; /* what it is asked for, where nobody says so */
	struct tw_endpoint_address address;
	/* passive: failures since `window` (ns); out until `out_until`, 0: not out */
	_Atomic uint64_t window, out_until;
	_Atomic uint32_t fails;
	/* active: thread 0 writes */
	_Atomic bool check_down;
	_Atomic uint64_t checks, failed_checks;
	pthread_mutex_t lock; /* of last */
	char last[96];
	struct server_figures thread[TW_GATES_MAX];
};

/* A group as the control thread has given it last; never changed. */
struct group_table {
	_Atomic uint32_t refs;
	struct tw_group_spec spec;
	struct server_shared *shared[TW_SERVERS_MAX];
};

struct server {
	struct group *group;
	struct server_shared *shared;
	struct server_figures *figures; /* this thread's */
	uint32_t slot;                  /* in group->slot[], while it lives */
	uint32_t number;                /* in the specification; not when gone */
	uint32_t active, n_idle;
	struct connection *newest, *oldest; /* idle */
	bool gone;                          /* removed; is freed with its last connection */
	struct health_check *check;         /* thread 0 */
};

/* More than a group has servers: those that were removed stay until their connections end. */
#define SERVER_SLOTS 128

struct group {
	struct gate *gate;
	uint32_t index;
	bool removed; /* but its object stays: connections of it may go on, and it may come back */
	struct group_table *table;
	const struct tw_group_spec *spec; /* in the table */
	uint32_t n;
	uint32_t weighted;                             /* servers that have a weight */
	struct server *server[TW_SERVERS_MAX];         /* by number */
	struct tw_balance_server load[TW_SERVERS_MAX]; /* the same for balance.c */
	struct server *slot[SERVER_SLOTS];
	struct upstream *first, *last; /* wait for a connection */
	struct gate_task task;         /* looks after them */
};

/* The group, NULL with a sentence: there is none of that number. */
struct group *group_get(struct gate *gate, uint32_t index);
/* A server for one more connection; NULL: none, *full says whether some only have too many
 * connections, `why` (when not NULL) why all others are out. */
struct server *group_pick(struct group *group, uint64_t key, uint64_t tried, bool *full, char *why,
                          size_t why_size);
/* One connection more or less in use. The server may be freed by the second. */
void server_busy(struct server *server);
void server_unbusy(struct server *server);
void server_idles(struct server *server, int change);
/* Its bit in a mask of servers that were tried. */
static inline uint64_t server_bit(const struct server *server)
{
	return 1ull << (server->slot % 64);
}
static inline void server_count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
	                      memory_order_relaxed);
}

/* groups_open(), groups_close(): gate.h. */

/* ---- health.c ---- */

/* May it be chosen now? `alone`: no other server has a weight. */
bool health_up(const struct server *server, uint64_t now, bool alone);
/* It was chosen: when it was out until now, this is the one request that tries it again. False:
 * another thread was faster. */
bool health_chosen(struct server *server, uint64_t now);
void health_good(struct server *server);
void health_bad(struct server *server, const char *why);
/* Active checks of a server begin, change or end (gone), in thread 0. */
int health_check_set(struct server *server);
void health_check_stop(struct server *server);

/* ---- server.c: a connection to a server ---- */

enum connection_state { CONN_CONNECTING, CONN_IDLE, CONN_BUSY };

struct connection {
	struct gate_source source;
	struct gate_timer timer;
	uint64_t deadline; /* the timer is set to this or earlier; 0: none */
	struct gate *gate;
	struct server *server;
	struct upstream *up;              /* whose request it has; NULL: idle */
	struct connection *newer, *older; /* idle */
	uint8_t state;                    /* enum connection_state */
	bool used;                        /* has answered before */
	uint8_t knocks;                   /* how often its queue was full; source.fd is -1 then */
};

/* The newest idle connection, NULL: none. `sure`: asks the kernel whether it was closed. */
struct connection *server_take(struct server *server, bool sure);
/* Begins a new one: CONN_BUSY when it is open at once, else upstream_connected() or
 * upstream_lost() comes. NULL: `cause` (enum upstream_cause) and a sentence. */
struct connection *server_connect(struct server *server, struct upstream *up, int *cause);
/* To the idle ones, or closed when there are enough. */
void server_keep(struct connection *c);
void server_drop(struct connection *c);
void server_drop_idle(struct server *server);
/* Waits for these; 0: not even for a hang-up. */
void connection_watch(struct connection *c, uint32_t interest);
void connection_deadline(struct connection *c, uint64_t due);
/* sock_connect() of a stream. */
int server_socket(const struct tw_endpoint_address *address, int *fd);
/* An error that is our own shortage of something, not the server's failure. */
bool server_is_shortage(int err);

/* ---- upstream.c: the server's side of an exchange ---- */

/* Why an attempt came to nothing. */
enum upstream_cause {
	UP_CONNECT,  /* refused, unreachable: 502 */
	UP_SLOW,     /* to connect, to answer: 504 */
	UP_CLOSED,   /* before it answered: 502 */
	UP_BAD,      /* what it answered is no response: 502 */
	UP_SHORTAGE, /* no descriptor, port or block here: 503; not the server's failure */
	UP_REQUEST,  /* what was to be sent cannot be: 500; not the server's failure */
	UP_CLIENT,   /* the body of the request broke off or lies: 400; not the server's failure */
};

enum upstream_state { UP_WAITS, UP_CONNECTS, UP_RUNS, UP_RAW };

struct upstream {
	struct exchange *x;
	struct gate *gate;
	struct group *group;
	struct connection *c;
	struct server *at_server;     /* of this attempt */
	struct upstream *next, *prev; /* group's queue; free list */
	struct gate_timer timer;      /* in the queue */
	uint32_t key, retries;
	uint64_t tried;
	uint32_t attempt; /* counts them */
	uint8_t state;    /* enum upstream_state */
	bool dead;        /* given up; freed when hold is 0 */
	bool fresh;       /* no idle connection: the last one was closed */
	bool idempotent, head;
	uint32_t hold; /* functions that have it on the stack */
	int status;    /* of the last failure; `why` */

	/* sending (server_send.c) */
	bool sending;       /* on the stack */
	bool sent;          /* all of the request */
	bool written;       /* some of it, on this connection */
	bool keeps;         /* pieces of x->in stay until a response comes */
	bool blocked;       /* the kernel takes no more now */
	bool write_dead;    /* the server takes no more */
	bool finish;        /* `post` is the end */
	uint8_t framing;    /* enum http_framing, or SEND_RAW */
	uint64_t body_left; /* HTTP_LENGTH: not yet in a batch */
	uint64_t kept;      /* bytes of x->in that were sent and kept */
	uint64_t consumed;  /* bytes that are gone */
	uint64_t data_left; /* of the batch under way: from x->in */
	char *pre;          /* before it */
	uint32_t pre_len, pre_at;
	char small[32];   /* a chunk's head */
	char *spill;      /* rest of the head that the kernel did not take */
	const char *post; /* behind it */
	uint32_t post_len, post_at;

	/* reading (server_read.c) */
	bool reading;        /* on the stack */
	bool began;          /* a byte of a response has come */
	bool answered;       /* flow_answered() was called, or is next */
	bool paused;         /* x->out is full */
	bool ended;          /* no more will come */
	bool starved;        /* the pool has no block */
	uint64_t starved_at; /* since; 0: not */
	uint8_t interim;     /* responses 1xx that came */
	struct http_in in;
	uint64_t body_in; /* bytes of the body so far */
	tw_handle block;
	uint8_t *mem;
	uint32_t size, at, end, want;
	struct body_piece piece; /* not yet in x->out; len 0: none */

	char why[192]; /* not cleared with the rest */
};
#define SEND_RAW 0xff /* upgraded: bytes as they come */

/* Of server.c: */
void upstream_connected(struct upstream *up);
/* The attempt has failed: another one, or flow_failed(); or, when a head was handed on already, its
 * body is broken. Gives up `up`, or begins it anew. */
void upstream_lost(struct upstream *up, enum upstream_cause cause, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Response and request are done with; `reusable`: the connection is. Gives up `up`. */
void upstream_done(struct upstream *up, bool reusable);
void upstream_timeout(struct upstream *up);
void upstream_queue_run(struct group *group);    /* somebody may have a connection now */
void upstream_queue_refuse(struct group *group); /* the group is removed */
/* What epoll is asked for, by the state of both directions. */
static inline void upstream_watch(struct upstream *up)
{
	connection_watch(up->c, (up->paused || up->ended || up->starved ? 0 : (uint32_t)EPOLLIN) |
	                                (up->blocked ? (uint32_t)EPOLLOUT : 0));
}
/* Keeps `up` itself (not what it belongs to) over calls that may end it; false: it was ended. */
static inline void upstream_hold(struct upstream *up)
{
	up->hold++;
}
bool upstream_release(struct upstream *up);
void upstream_close(struct gate *gate); /* the thread ends */

/* ---- server_send.c, server_read.c, server_block.c ---- */

bool send_is_idempotent(const struct exchange *x); /* RFC 9110 9.2.2; a first guess */
/* Writes the head; false: upstream_lost() was called. */
bool send_begin(struct upstream *up);
void send_more(struct upstream *up);
void send_raw(struct upstream *up);    /* the connection has changed to another protocol */
void send_settle(struct upstream *up); /* a response has come: what was kept is not needed */
void send_forget(struct upstream *up); /* frees what it has */
void send_close(void);                 /* the thread ends */
void read_begin(struct upstream *up);
void read_more(struct upstream *up);
void read_room(struct body *out); /* x->out.room */

/* server_block.c */
#define READ_BLOCK 65536
/* Room to receive into, behind up->end; 0: there is no block, and that has been seen to. */
uint32_t read_room_head(struct upstream *up);
uint32_t read_room_body(struct upstream *up);
/* How much the next read may bring, by what this one has brought. */
void read_adapt(struct upstream *up, uint32_t room, uint32_t got);
void read_starved(struct upstream *up); /* the pool may have a block again */
void read_forget(struct upstream *up);
