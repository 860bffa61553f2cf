/* SPDX-License-Identifier: BSD-3-Clause */
/* listener.h - listeners as a gate thread has them, and what is done with their connections. */
#pragma once
#include "gate/flow.h"
#include "gate/l4.h"

struct client;
struct clients; /* client.c: what the connections of a thread share */

/* Kept when its socket closes: connections refer to it. */
struct listener {
	struct gate_source source; /* HTTP, TCP; fd -1: none */
	struct gate_timer pause;   /* no descriptors: accepts again when it fires */
	struct gate_timer end;     /* removed: what is there still is closed when it fires */
	struct gate *gate;
	uint32_t index;
	bool datagrams; /* the socket is datagram.c's */
	bool leaves;    /* removed: connections end with their next response */
	struct tw_listener_spec spec;
	struct client *clients; /* HTTP connections */
};

/* gate->listeners */
struct listeners {
	struct listener listener[TW_LISTENERS_MAX];
	int reserve; /* a descriptor to give up when there are no others */
	bool told;   /* that there are none was logged */
	struct clients *clients;
};

static inline struct listeners *listeners_of(struct gate *gate)
{
	return gate->listeners;
}

static inline int listener_backlog(const struct tw_listener_spec *spec)
{
	return spec->backlog ? (int)spec->backlog : 1024;
}

/* listener.c; in the gate thread */
int listeners_begin(struct gate *gate);
void listeners_end(struct gate *gate);
/* Takes over the socket, in place of the one before. */
int listener_open(struct gate *gate, uint32_t index, const struct tw_listener_spec *spec, int fd);
void listener_change(struct gate *gate, uint32_t index, const struct tw_listener_spec *spec);
/* The socket is closed; connections go on. */
void listener_shut(struct gate *gate, uint32_t index);
/* The same, and connections end with their next response, in drain_ms at the latest. */
void listener_leave(struct gate *gate, uint32_t index, uint32_t drain_ms);
void listeners_leave(struct gate *gate);
/* All connections are closed; UINT32_MAX: of all listeners. */
void listeners_close_all(struct gate *gate, uint32_t index);
uint32_t listeners_connections(const struct gate *gate);

/* socket.c: the control thread forgets what there was, when the threads have ended. */
void sockets_forget(void);

/* client.c: a connection of an HTTP listener; the descriptor is its own from here on. */
void client_accept(struct listener *listener, int fd, const struct proxy_facts *facts);
/* Idle ones are closed now, the others with their next response / all are closed. */
void clients_leave(struct listener *listener);
void clients_close(struct listener *listener);
/* A service and its pool are about to go: connections that have a block of it are closed. */
void clients_service_gone(struct gate *gate, const struct service *service);
int clients_begin(struct gate *gate);
void clients_end(struct gate *gate);
