/* SPDX-License-Identifier: BSD-3-Clause */
/* listener.c - listeners in a gate thread: accepts connections, within limits, and hands them on by
 * protocol. Each thread has a socket of its own (SO_REUSEPORT), so the kernel spreads connections
 * and nothing is woken for nothing. */
#include "gate/listener.h"

#include "error.h"
#include "gate/http.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS 32 /* of a listener in a turn */
#define PAUSE_NS 100000000ull

/* Open connections of a listener in all threads. */
static _Atomic uint32_t open_now[TW_LISTENERS_MAX];

/* ---- addresses ---- */

static void address_of(const struct sockaddr_storage *from, uint8_t *family, uint8_t *bytes,
                       uint16_t *port)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;
	const struct sockaddr_in *four = (const struct sockaddr_in *)from;

	*family = 4;
	if (from->ss_family == AF_INET) {
		memcpy(bytes, &four->sin_addr, 4);
		*port = ntohs(four->sin_port);
		return;
	}
	*port = ntohs(six->sin6_port);
	if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) { /* [::] takes IPv4 as well */
		memcpy(bytes, &six->sin6_addr.s6_addr[12], 4);
		return;
	}
	*family = 6;
	memcpy(bytes, &six->sin6_addr, 16);
}

static bool is_wildcard(const struct tw_endpoint_address *address)
{
	static const uint8_t zero[16];

	return !memcmp(address->bytes, zero, address->family == 4 ? 4 : 16);
}

/* The local address is asked for only where it is not the listener's own. */
static void facts_of(struct listener *listener, int fd, const struct sockaddr_storage *peer,
                     struct proxy_facts *facts)
{
	const struct tw_endpoint_address *own = &listener->spec.address;
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);
	uint8_t family;

	memset(facts, 0, sizeof(*facts));
	address_of(peer, &facts->family, facts->peer, &facts->peer_port);
	if (!is_wildcard(own)) {
		memcpy(facts->local, own->bytes, 16);
		facts->local_port = own->port;
		return;
	}
	gate_count(listener->gate, GATE_SYSCALLS, 1);
	if (!getsockname(fd, (struct sockaddr *)&local, &len))
		address_of(&local, &family, facts->local, &facts->local_port);
}

/* ---- accepting ---- */

static void resume(struct gate *gate, struct gate_timer *timer)
{
	struct listener *listener =
		(struct listener *)((char *)timer - offsetof(struct listener, pause));

	if (listener->source.fd >= 0 && gate_watch(gate, &listener->source, EPOLLIN))
		gate_timer_set(gate, timer, gate->now + PAUSE_NS);
}

/* No descriptor is left: one that was kept for this takes a connection, so that its client hears
 * of it; then nothing is accepted for a while, because others could not be either. */
static void no_descriptors(struct listener *listener)
{
	struct gate *gate = listener->gate;
	struct listeners *all = listeners_of(gate);
	int fd;

	gate_count(gate, GATE_REFUSED, 1);
	if (!all->told)
		tw_log(TW_LOG_ERROR
		       "gate %u: no descriptors left (%s): listener \"%s\" accepts a "
		       "few connections only; raise the limit (ulimit -n, LimitNOFILE)",
		       gate->id, strerror(errno), listener->spec.name);
	all->told = true;
	if (all->reserve >= 0) {
		close(all->reserve);
		fd = accept4(listener->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			close(fd);
		all->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	gate_unwatch(gate, &listener->source);
	gate_timer_set(gate, &listener->pause, gate->now + PAUSE_NS);
}

static void refuse(struct listener *listener, int fd)
{
	char text[512];
	int len;

	gate_count(listener->gate, GATE_REFUSED, 1);
	if (listener->spec.protocol == TW_LISTEN_HTTP) {
		len = http_write_answer(503, "too many connections", true, false, text,
		                        sizeof(text));
		if (len > 0)
			send(fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	close(fd);
}

static void hand_on(struct listener *listener, int fd, const struct sockaddr_storage *peer)
{
	struct gate *gate = listener->gate;
	uint32_t index = listener->index, limit = listener->spec.connections;
	struct service *service = gate->service[listener->spec.service];
	struct proxy_facts facts;

	if (atomic_fetch_add_explicit(&open_now[index], 1, memory_order_relaxed) >= limit &&
	    limit) {
		atomic_fetch_sub_explicit(&open_now[index], 1, memory_order_relaxed);
		refuse(listener, fd);
		return;
	}
	gate->connections[index]++;
	gate_count(gate, GATE_CONNECTIONS, 1);
	facts_of(listener, fd, peer, &facts);
	if (listener->spec.protocol == TW_LISTEN_HTTP)
		client_accept(listener, fd, &facts);
	else if (service)
		stream_accept(gate, service, index, &listener->spec, fd, &facts);
	else {
		close(fd);
		listener_closed(gate, index);
	}
}

/* False: no more wait, or can be had now. */
static bool accept_some(struct gate *gate, struct gate_source *source)
{
	struct listener *listener =
		(struct listener *)((char *)source - offsetof(struct listener, source));

	for (unsigned i = 0; i < ACCEPTS && source->fd >= 0; i++) {
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);
		int fd = accept4(source->fd, (struct sockaddr *)&peer, &len,
		                 SOCK_CLOEXEC | SOCK_NONBLOCK);

		gate_count(gate, GATE_SYSCALLS, 1);
		if (fd >= 0) {
			hand_on(listener, fd, &peer);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			no_descriptors(listener);
			return false;
		}
		/* ECONNABORTED and errors of the network are of that connection (accept(2)). */
		if (errno == EAGAIN || errno == EINVAL || errno == EBADF)
			return false;
	}
	return source->fd >= 0;
}

static void ready(struct gate *gate, struct gate_source *source, uint32_t events)
{
	(void)events;
	accept_some(gate, source);
}

void listener_closed(struct gate *gate, uint32_t index)
{
	gate->connections[index]--;
	atomic_fetch_sub_explicit(&open_now[index], 1, memory_order_relaxed);
}

const struct tw_listener_spec *gate_listener_spec(const struct gate *gate, uint32_t index)
{
	const struct listeners *all = gate->listeners;

	return index < TW_LISTENERS_MAX && all->listener[index].spec.protocol
	               ? &all->listener[index].spec
	               : NULL;
}

uint32_t listeners_connections(const struct gate *gate)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < TW_LISTENERS_MAX; i++)
		n += __atomic_load_n(&gate->connections[i], __ATOMIC_RELAXED);
	return n;
}

/* ---- life ---- */

/* Closed after `ms` at the latest; 0: when its connections end by themselves. */
static void close_late(struct gate *gate, struct gate_timer *timer)
{
	struct listener *listener =
		(struct listener *)((char *)timer - offsetof(struct listener, end));

	listeners_close_all(gate, listener->index);
}

int listeners_begin(struct gate *gate)
{
	struct listeners *all = calloc(1, sizeof(*all));
	int err;

	if (!all)
		return tw_fail(ENOMEM, "gate %u: no memory for listeners", gate->id);
	gate->listeners = all;
	all->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < TW_LISTENERS_MAX; i++) {
		struct listener *listener = &all->listener[i];

		listener->gate = gate;
		listener->index = i;
		listener->source.fd = -1;
		listener->source.ready = ready;
		listener->pause.fire = resume;
		listener->end.fire = close_late;
	}
	err = clients_begin(gate);
	return err;
}

void listeners_end(struct gate *gate)
{
	struct listeners *all = gate->listeners;

	clients_end(gate);
	if (all->reserve >= 0)
		close(all->reserve);
	free(all);
	gate->listeners = NULL;
}

int listener_open(struct gate *gate, uint32_t index, const struct tw_listener_spec *spec, int fd)
{
	struct listener *listener = &listeners_of(gate)->listener[index];
	struct service *service = gate->service[spec->service];
	int err;

	listener_shut(gate, index);
	gate_timer_cancel(gate, &listener->end);
	listener->spec = *spec;
	listener->leaves = false;
	if (spec->protocol == TW_LISTEN_UDP) {
		if (!service) {
			close(fd);
			return tw_fail(ENOENT, "listener \"%s\": there is no service %u",
			               spec->name, spec->service);
		}
		err = datagram_open(gate, service, index, spec, fd);
		listener->datagrams = !err;
		return err;
	}
	listener->source.fd = fd;
	return gate_watch(gate, &listener->source, EPOLLIN);
}

void listener_change(struct gate *gate, uint32_t index, const struct tw_listener_spec *spec)
{
	struct listener *listener = &listeners_of(gate)->listener[index];

	if (listener->source.fd >= 0 && listener->spec.backlog != spec->backlog)
		listen(listener->source.fd, listener_backlog(spec));
	listener->spec = *spec;
	if (listener->datagrams)
		datagram_change(gate, index, spec);
}

/* What waits to be accepted was promised an answer by the kernel already: as many as can wait. */
void listener_shut(struct gate *gate, uint32_t index)
{
	struct listener *listener = &listeners_of(gate)->listener[index];

	gate_timer_cancel(gate, &listener->pause);
	if (listener->source.fd >= 0) {
		int rounds = listener_backlog(&listener->spec) / ACCEPTS + 1;

		while (rounds-- && accept_some(gate, &listener->source))
			;
		gate_close(gate, &listener->source);
	}
	if (listener->datagrams)
		datagram_close(gate, index, false);
	listener->datagrams = false;
}

static void leave(struct gate *gate, struct listener *listener, uint32_t drain_ms)
{
	listener->leaves = true;
	listener_shut(gate, listener->index);
	clients_leave(listener);
	if (drain_ms)
		gate_timer_set(gate, &listener->end, gate->now + drain_ms * 1000000ull);
	else
		listeners_close_all(gate, listener->index);
}

void listener_leave(struct gate *gate, uint32_t index, uint32_t drain_ms)
{
	leave(gate, &listeners_of(gate)->listener[index], drain_ms);
}

void listeners_leave(struct gate *gate)
{
	for (unsigned i = 0; i < TW_LISTENERS_MAX; i++)
		leave(gate, &listeners_of(gate)->listener[i], UINT32_MAX);
}

void listeners_close_all(struct gate *gate, uint32_t index)
{
	for (unsigned i = 0; i < TW_LISTENERS_MAX; i++) {
		if (index != i && index != UINT32_MAX)
			continue;
		gate_timer_cancel(gate, &listeners_of(gate)->listener[i].end);
		clients_close(&listeners_of(gate)->listener[i]);
		datagram_close(gate, i, true);
		stream_close_all(gate, i);
	}
}
