/* SPDX-License-Identifier: BSD-3-Clause */
/* l4.h - streams (stream.c) and datagrams (datagram.c): what listener.c calls, and what they call
 * of others. Everything belongs to one gate thread. */
#pragma once
#include "gate/gate.h"
#include "gate/proxy.h"

/* ---- stream.c: connections of listeners with TW_LISTEN_TCP ---- */

/* An accepted connection, non-blocking; the descriptor is stream.c's from here on, also when this
 * fails. The caller has counted it in gate->connections[]; listener_closed() gives it back, once.
 * `facts`: addresses of both ends as the kernel says; a PROXY header is read here, when the
 * listener has one. Nothing of `spec` is kept. */
int stream_accept(struct gate *gate, struct service *service, uint32_t listener,
                  const struct tw_listener_spec *spec, int fd, const struct proxy_facts *facts);
/* Connections of a listener (UINT32_MAX: all) are closed now. Draining needs no word: they go on
 * until their ends close them. */
void stream_close_all(struct gate *gate, uint32_t listener);

/* ---- datagram.c: sockets of listeners with TW_LISTEN_UDP ---- */

/* A bound, non-blocking socket of this thread (SO_REUSEPORT), which is datagram.c's until
 * datagram_close() closes it. Options it needs (IP_PKTINFO, IPV6_RECVPKTINFO) it sets itself. */
int datagram_open(struct gate *gate, struct service *service, uint32_t listener,
                  const struct tw_listener_spec *spec, int fd);
/* The listener's specification has changed (times, limits, service), not its socket. */
void datagram_change(struct gate *gate, uint32_t listener, const struct tw_listener_spec *spec);
/* No more datagrams are received; sessions go on, for answers that come still, until `now`. */
void datagram_close(struct gate *gate, uint32_t listener, bool now);

/* ---- between the two ---- */

/* Fills in a message about a connection or datagram, at the start of its block. */
void l4_message(struct tw_msg *msg, struct gate *gate, tw_handle self, uint32_t size, uint8_t kind,
                uint32_t listener, const struct proxy_facts *facts);
/* ---- of others ---- */

/* listener.c: a connection of this listener has ended; who waits for the limit may accept again. */
void listener_closed(struct gate *gate, uint32_t listener);

/* group.c: a server for a stream or a session, by the group's balance; counted as active until
 * group_release(). `tried`: bit per server that has failed before. -ENOENT: no such group,
 * -EHOSTUNREACH: no server is usable, -EAGAIN: all are full. */
struct group_choice {
	uint32_t server;
	const struct tw_endpoint_address *address; /* until group_release() */
	uint32_t protocol, connect_ms, idle_ms, retries;
	uint32_t proxy; /* version of the PROXY header it wants, 0: none */
};
int group_choose(struct gate *gate, uint32_t group, uint32_t key, uint64_t tried,
                 struct group_choice *choice);
/* `why`: NULL: it went well; "": that says nothing about the server; else how it failed, for
 * passive checks and figures. */
void group_release(struct gate *gate, uint32_t group, uint32_t server, const char *why);
