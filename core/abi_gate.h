/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_gate.h - the part of the boundary for the gate: listeners, upstream groups, services (chains
 * of messages), their members; same conventions as abi.h, which includes it. Control thread only.
 *
 * A gate thread owns connections; the control thread tells all of them what there is, and waits
 * until each has taken it. Everything can be added, changed and removed while they run.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_gate_limits {
	TW_LISTENERS_MAX = 32,
	TW_GROUPS_MAX = 32,  /* upstream groups */
	TW_SERVERS_MAX = 64, /* of a group */
	TW_SERVICES_MAX = TW_CHAINS_MAX,
};

enum tw_listener_protocol {
	TW_LISTEN_HTTP = 1, /* HTTP/1.0 and 1.1 */
	TW_LISTEN_TCP,      /* streams */
	TW_LISTEN_UDP,      /* datagrams */
};

enum {
	TW_HOST_LEN = 264,     /* "name:port", NUL included; a name has at most 253 bytes */
	TW_RESOLVE_LEN = 4096, /* the addresses of one */
	TW_ADDRESS_UNIX = 1,   /* family: a stream socket in the file system */
	TW_UNIX_LEN = 108,     /* its path, NUL included (unix(7)) */
};

/* An address of IPv4 or IPv6, bytes in network order, IPv4 in the first four; or a path. */
struct tw_endpoint_address {
	uint8_t family; /* 4, 6, of servers also TW_ADDRESS_UNIX */
	uint8_t bytes[16];
	uint16_t port; /* host order */
	uint32_t scope;
	char path[TW_UNIX_LEN];
};

struct tw_listener_spec {
	char name[TW_NAME_LEN];
	struct tw_endpoint_address address;
	uint32_t protocol; /* enum tw_listener_protocol */
	uint32_t service;  /* index of the service (chain) it feeds */
	uint32_t proxy;    /* 1: connections begin with a PROXY protocol header, version 1 or 2 */
	uint32_t only_v6;  /* [::] does not take IPv4 */
	uint32_t backlog;
	uint32_t connections; /* at most, of all gate threads; more are closed, or wait when 0 <
	                         pause */
	uint32_t requests;    /* of one connection, 0: any number */
	uint32_t head_bytes;  /* at most; 431 */
	uint64_t body_bytes;  /* at most; 413 */
	uint32_t idle_ms;     /* keep-alive: from a response to the next request; streams: no byte
	                         either way */
	uint32_t head_ms;     /* first byte to the end of the head; 408 */
	uint32_t body_ms;     /* between two pieces of a body; 408 */
	uint32_t send_ms;     /* the client takes nothing; closed */
	uint32_t request_ms;  /* whole exchange in the functions' and upstreams' hands; 504 */
};

enum tw_balance {
	TW_BALANCE_ROUND_ROBIN = 0, /* weighted, smooth */
	TW_BALANCE_LEAST,           /* least connections for their weight */
	TW_BALANCE_HASH,            /* consistent, by tw_msg.key */
};

struct tw_server_spec {
	char name[TW_NAME_LEN]; /* "10.0.0.1:80" */
	struct tw_endpoint_address address;
	uint32_t weight;        /* 0: takes no new requests (drained) */
	char host[TW_HOST_LEN]; /* Host where nobody says another; empty: the name above */
};

struct tw_group_spec {
	char name[TW_NAME_LEN];
	uint32_t n_servers;
	uint32_t balance;     /* enum tw_balance */
	uint32_t protocol;    /* enum tw_listener_protocol: what its servers speak */
	uint32_t keepalive;   /* idle connections kept, per server and gate thread */
	uint32_t connections; /* at most per server and gate thread; more wait for queue_ms, 503 */
	uint32_t queue_ms;
	uint32_t connect_ms, response_ms, idle_ms; /* 504; between two pieces: 502 */
	uint32_t retries; /* other servers tried when one fails before it answers and nothing is
	                     lost by it */
	uint32_t fails, fail_ms; /* passive: so many failures within fail_ms take a server out for
	                            fail_ms; 0: never */
	uint32_t check_ms;       /* active: 0: none */
	uint32_t check_timeout_ms, rise, fall;
	uint32_t check_status; /* expected, 0: any 2xx or 3xx */
	uint32_t proxy;        /* 0, 1 or 2: sends a PROXY protocol header of that version */
	char check_path[256];  /* HTTP; empty: a connection that is accepted is enough */
	char host[256];        /* Host of checks; empty: the server's */
	struct tw_server_spec server[TW_SERVERS_MAX];
};

enum tw_transport {
	TW_TRANSPORT_SK_MSG = 0,
	TW_TRANSPORT_RINGS,
	TW_TRANSPORT_INLINE,
};

/* What a function takes: bit per kind. */
enum tw_takes {
	TW_TAKES_MESSAGE = 1, /* requests, openings, datagrams */
	TW_TAKES_RESPONSE = 2,
	TW_TAKES_DATA = 4,        /* bodies piece by piece, streams */
	TW_TAKES_WHOLE = 8,       /* wants request bodies whole */
	TW_TAKES_WHOLE_BACK = 16, /* wants response bodies whole */
};

/* What becomes of messages in the hands of an instance that dies or is stuck. */
enum tw_on_fault {
	TW_FAULT_FAIL = 0, /* 502 */
	TW_FAULT_RETRY,    /* once more, by another instance; 502 when that fails too */
	TW_FAULT_BYPASS,   /* as if the function had done nothing */
};

struct tw_function_spec {
	char name[TW_NAME_LEN];
	uint32_t takes;    /* enum tw_takes */
	uint32_t on_fault; /* enum tw_on_fault */
	uint32_t readonly; /* its instances map messages read-only */
	uint32_t sticky;   /* the same instance for all messages of an exchange (1) or of a client
	                      address (2) */
	uint32_t aside;    /* 1: not in the chain's order; reached by a route only */
	uint32_t routes;   /* bit per function: TW_EXIT_ROUTE + n is the n-th bit that is set */
	uint32_t spare[2];
};

struct tw_service_spec {
	char name[TW_NAME_LEN];
	uint32_t transport; /* enum tw_transport */
	uint32_t n_functions;
	int32_t group;        /* upstream group behind the last function, -1: none, 404 */
	uint32_t memory_mb;   /* of the pool */
	uint64_t whole_bytes; /* of a body that a function wants whole; 413 */
	struct tw_function_spec function[TW_STAGES_MAX];
};

/* ---- gates ---- */

/* Starts gate threads on these CPUs (NULL: not pinned). Once; -EALREADY. */
int tw_gates_start(uint32_t count, const int *cpus);
/* Listeners close, exchanges have up to drain_ms to end, then everything is closed. */
int tw_gates_stop(uint32_t drain_ms);

/* Index in, specification in: there from now on, or changed to this. What goes on keeps what it
 * began with. Listening sockets are opened here (with the caller's rights), one per gate thread. */
int tw_gate_service(uint32_t index, const struct tw_service_spec *spec);
int tw_gate_group(uint32_t index, const struct tw_group_spec *spec);
int tw_gate_listener(uint32_t index, const struct tw_listener_spec *spec);
/* Nothing new goes there; what is there ends within drain_ms. */
int tw_gate_service_remove(uint32_t index, uint32_t drain_ms);
int tw_gate_group_remove(uint32_t index);
int tw_gate_listener_remove(uint32_t index, uint32_t drain_ms);
/* Functions of a service that run in the gate threads: what transfer.lua packed. */
int tw_gate_inline(uint32_t service, const char *blob, size_t len);

/* ---- names of hosts ---- */

/* Looks for the addresses of a host, as the C library finds them (/etc/hosts, DNS): a thread of its
 * own asks. NULL with a sentence. */
struct tw_question;
struct tw_question *tw_gate_ask(const char *host);
/* 0: its addresses in no order, as texts with a line feed behind each; -EINPROGRESS: not known
 * after so long; else there is none. Can be called again. */
int tw_gate_answer(struct tw_question *question, uint32_t ms, char *text, uint32_t size);
/* Also while it is not answered; once. */
void tw_gate_forget(struct tw_question *question);

/* ---- workers ---- */

enum { TW_WORKER_FDS = 16 };

struct tw_worker_spec {
	uint32_t service, function; /* function: index in the service's specification */
	const char *blob;           /* the function's NF as transfer.lua packed it; copied */
	size_t blob_len;
	uint32_t uid;         /* 0: one of its own is chosen; others from 2010000000 on */
	int32_t cpu;          /* -1: not pinned */
	uint32_t memory_mb;   /* of its heap */
	uint32_t cpu_percent; /* by cgroup, 0: no limit */
	uint32_t stuck_ms;    /* CPU time in one message before it is taken for stuck */
	uint32_t n_fds;       /* descriptors that the blob speaks of (tw.store); duplicated */
	int32_t fds[TW_WORKER_FDS];
};
/* Starts an instance and goes on: a process, supervised and started anew with back-off when it
 * ends. Its number (not the member number), or -errno. */
int tw_worker_add(const struct tw_worker_spec *spec);
/* Takes no more, works off what it has for up to drain_ms, ends. */
int tw_worker_remove(uint32_t worker, uint32_t drain_ms);
/* To another CPU, now and when it is started again. */
int tw_worker_move(uint32_t worker, int32_t cpu);

enum tw_worker_state {
	TW_WORKER_NONE,
	TW_WORKER_STARTS,
	TW_WORKER_RUNS,
	TW_WORKER_WAITS /* for its next start */,
	TW_WORKER_LEAVES
};
struct tw_worker_info {
	uint32_t service, function, instance, member;
	uint32_t state; /* enum tw_worker_state */
	int32_t pid;
	uint32_t uid;
	int32_t cpu;
	uint64_t restarts;
	uint64_t since_ns; /* start of this process, monotonic */
	uint64_t cpu_ns;   /* of this process */
	char last[160]; /* why the one before ended: "signal 9 (killed)", "stuck for 50 ms in ..."
	                 */
	/* Sums over all of its processes. */
	uint64_t queued, in, out, denied, full; /* struct tw_member_stats */
	struct tw_member_board board;
};
enum { TW_WORKERS_MAX = 128 };
int tw_worker_info(uint32_t worker, struct tw_worker_info *info); /* -ENOENT */
/* Processes that wanted to register as workers, and were none. */
uint64_t tw_worker_strangers(void);

/* ---- figures ---- */

struct tw_service_stats {
	uint64_t requests, responses,
		failed; /* exchanges begun; answered; answered by the gate itself with 5xx */
	uint64_t in_flight;
	uint64_t bytes_in, bytes_out;
	uint64_t status[6];             /* by hundreds; [0]: closed without an answer */
	uint64_t time[TW_TIME_BUCKETS]; /* first byte to last byte handed to the kernel, ns */
	uint64_t pool_blocks, pool_used, pool_empty, pool_refused, pool_bytes;
	uint32_t pool_huge, functions;
	/* by function, of those that run inline: as the boards of instances */
	struct tw_member_board inline_board[TW_STAGES_MAX];
};
int tw_service_stats(uint32_t index, struct tw_service_stats *stats);

struct tw_server_stats {
	uint32_t up, active, idle; /* usable; connections in use; kept */
	uint64_t requests, failures, checks, failed_checks;
	char last[96]; /* the last failure */
};
int tw_group_stats(uint32_t group, uint32_t server, struct tw_server_stats *stats);

struct tw_gate_stats {
	uint64_t counter[32]; /* by name: tw_gate_counter_name() */
	uint64_t cpu_ns;
	uint32_t connections, exchanges;
};
int tw_gate_stats(uint32_t gate, struct tw_gate_stats *stats); /* -ENOENT behind the last */
const char *tw_gate_counter_name(uint32_t counter);            /* NULL behind the last */
