/* SPDX-License-Identifier: BSD-3-Clause */
/* datagram.h - UDP listeners of a gate thread and the sessions of their clients: what datagram.c
 * and datagram_session.c share. */
#pragma once
#include "gate/flow.h"
#include "gate/l4.h"

#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	DATAGRAM_MAX = 65536,
	DATAGRAM_BATCH = 16,
	DATAGRAM_PIECES = BODY_PIECES,
};

/* Who sent a datagram, and to which address of ours. */
struct datagram_ends {
	struct sockaddr_storage peer;
	socklen_t peer_len;
	struct proxy_facts facts;
	uint32_t interface;
};

/* A datagram that functions have, or that waits to be sent back. */
struct datagram {
	TAILQ_ENTRY(datagram) link; /* in the port's queue of replies */
	struct datagram *next_free;
	struct udp_port *port;
	struct session *session; /* sent on, waits for an answer that functions look at */
	struct exchange *x;
	struct datagram_ends ends;
	uint32_t group, key; /* waits for what functions leave of its bytes */
	bool replies;
};
TAILQ_HEAD(datagram_queue, datagram);

/* A client's way to one server: a socket of its own, so that answers find back. */
struct session {
	struct gate_source source;
	TAILQ_ENTRY(session) link; /* the port's, longest unused first */
	struct session *next;      /* in its bucket */
	struct udp_port *port;
	struct datagram_ends ends;
	struct group_choice choice;
	struct datagram_queue asked; /* exchanges that wait for its answers */
	uint32_t group, hash, bucket;
	uint64_t used; /* gate->now */
	bool answered;
};
TAILQ_HEAD(session_list, session);

/* A listener's socket. */
struct udp_port {
	struct gate_source source;
	TAILQ_ENTRY(udp_port) link; /* of those that leave */
	struct gate *gate;
	uint32_t listener, local_port;
	uint32_t service; /* its number: it may go, and another one come */
	bool leaves;      /* receives nothing any more */
	uint32_t expect;  /* datagrams of the next receive */
	uint32_t in_hand;
	struct datagram_queue replies;
	struct gate_task send;
	/* sessions */
	struct gate_timer expiry;
	struct session_list sessions;
	struct session **bucket;
	uint32_t n_sessions, max_sessions;
	uint64_t idle_ns;
};

/* Of a thread; gate->datagrams. */
struct datagrams {
	struct udp_port *port[TW_LISTENERS_MAX];
	TAILQ_HEAD(udp_ports, udp_port) leaving;
	struct datagram *free;
	uint8_t *room; /* DATAGRAM_BATCH times DATAGRAM_MAX: what does not fit a small block */
};

/* What is in a body, as places to send from. The number, -1: it is too many, or not there. */
int datagram_pieces(struct exchange *x, const struct body *body, struct iovec *iov);
void datagram_done(struct datagram *d); /* its exchange has ended, or ends with this */
/* A port that leaves is freed when nothing of it is left. */
void datagram_settle(struct udp_port *port);

/* ---- datagram_ends.c ---- */

#define DATAGRAM_CONTROL 64
/* Of a message that was received, its name written to ends->peer. */
void datagram_ends_of(struct msghdr *msg, uint32_t local_port, struct datagram_ends *ends);
/* A message to a client, from the address that it has sent to; without its bytes. */
void datagram_header(const struct datagram_ends *ends, struct msghdr *msg, void *control);

/* ---- datagram_session.c ---- */

/* Sends the body of d's exchange to a server of the group. Ends the exchange, now or later. */
void session_forward(struct datagram *d, uint32_t group, uint32_t key);
void session_change(struct udp_port *port, const struct tw_listener_spec *spec);
void sessions_close(struct udp_port *port);
