/* SPDX-License-Identifier: BSD-3-Clause */
/* socket.c - listening sockets: opened by the control thread, with its rights, one per gate thread.
 */
#include "error.h"
#include "gate/listener.h"
#include "gate/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/tcp.h>
#include <unistd.h>

/* What is there, as the control thread knows it. */
static struct {
	bool used;
	struct tw_listener_spec spec;
} there[TW_LISTENERS_MAX];

struct order {
	uint32_t index, drain_ms;
	const struct tw_listener_spec *spec;
	int fd[TW_GATES_MAX]; /* -1: taken over */
};

/* ---- opening ---- */

static const char *text_of(const struct tw_endpoint_address *address, char *to, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	inet_ntop(address->family == 4 ? AF_INET : AF_INET6, address->bytes, host, sizeof(host));
	snprintf(to, size, address->family == 4 ? "%s:%u" : "[%s]:%u", host, address->port);
	return to;
}

/* `shared`: one of several. Without, it fails when anybody has that address, also another program
 * that would share it: connections would be split between the two. */
static int open_one(const struct tw_listener_spec *spec, bool shared)
{
	bool udp = spec->protocol == TW_LISTEN_UDP;
	int fd, one = 1, only_v6 = spec->only_v6 != 0, err = 0;
	struct sockaddr_storage to;
	socklen_t len = sock_address(&spec->address, &to);

	fd = socket(to.ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC,
	            0);
	if (fd < 0)
		return -errno;
	if (to.ss_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof(only_v6)))
		err = -errno;
	if (!udp && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		err = -errno;
	if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		err = -errno;
	if (!udp) /* connections inherit it */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!err && bind(fd, (struct sockaddr *)&to, len))
		err = -errno;
	if (!err && !udp && listen(fd, listener_backlog(spec)))
		err = -errno;
	if (!err)
		return fd;
	close(fd);
	return err;
}

static void close_all(struct order *order)
{
	for (unsigned i = 0; i < TW_GATES_MAX; i++) {
		if (order->fd[i] >= 0)
			close(order->fd[i]);
		order->fd[i] = -1;
	}
}

/* `alone`: nobody may have that address yet. */
static int open_all(struct order *order, bool alone)
{
	char address[80];
	int fd = alone ? open_one(order->spec, false) : 0;

	if (fd >= 0 && alone)
		close(fd);
	for (unsigned i = 0; i < gates_running() && fd >= 0; i++)
		order->fd[i] = fd = open_one(order->spec, true);
	if (fd >= 0)
		return 0;
	close_all(order);
	return tw_fail(-fd, "listener \"%s\": %s: %s%s", order->spec->name,
	               text_of(&order->spec->address, address, sizeof(address)), strerror(-fd),
	               fd == -EADDRINUSE      ? " (ss -lntup shows by whom)"
	               : fd == -EACCES        ? " (ports below 1024 need CAP_NET_BIND_SERVICE)"
	               : fd == -EADDRNOTAVAIL ? " (ip address shows the addresses of this host)"
	                                      : "");
}

/* ---- in the gate threads ---- */

static int open_in(struct gate *gate, void *ctx)
{
	struct order *order = ctx;
	int fd = order->fd[gate->id];

	order->fd[gate->id] = -1;
	return listener_open(gate, order->index, order->spec, fd);
}

static int change_in(struct gate *gate, void *ctx)
{
	struct order *order = ctx;

	listener_change(gate, order->index, order->spec);
	return 0;
}

static int leave_in(struct gate *gate, void *ctx)
{
	struct order *order = ctx;

	listener_leave(gate, order->index, order->drain_ms);
	return 0;
}

/* ---- what the control thread calls ---- */

static bool same_address(const struct tw_listener_spec *a, const struct tw_listener_spec *b)
{
	return a->protocol == b->protocol && a->address.family == b->address.family &&
	       a->address.port == b->address.port && a->address.scope == b->address.scope &&
	       !memcmp(a->address.bytes, b->address.bytes, a->address.family == 4 ? 4 : 16);
}

static int valid(uint32_t index, const struct tw_listener_spec *spec)
{
	if (index >= TW_LISTENERS_MAX)
		return tw_fail(EINVAL, "listener %u: there can be %u", index,
		               (unsigned)TW_LISTENERS_MAX);
	if (spec->protocol < TW_LISTEN_HTTP || spec->protocol > TW_LISTEN_UDP)
		return tw_fail(EINVAL, "listener \"%s\": there is no protocol %u", spec->name,
		               spec->protocol);
	if (spec->address.family != 4 && spec->address.family != 6)
		return tw_fail(EINVAL, "listener \"%s\": there is no address family %u", spec->name,
		               spec->address.family);
	if (!spec->address.port)
		return tw_fail(EINVAL, "listener \"%s\": a port is missing", spec->name);
	if (spec->service >= TW_SERVICES_MAX)
		return tw_fail(EINVAL, "listener \"%s\": service %u: there can be %u", spec->name,
		               spec->service, (unsigned)TW_SERVICES_MAX);
	if (!gates_running())
		return tw_fail(EAGAIN, "listener \"%s\": no gate thread runs yet", spec->name);
	return 0;
}

int tw_gate_listener(uint32_t index, const struct tw_listener_spec *spec)
{
	struct order order = { .index = index, .spec = spec };
	int err = valid(index, spec);
	bool same;

	if (err)
		return err;
	memset(order.fd, 0xff, sizeof(order.fd));
	same = there[index].used && same_address(&there[index].spec, spec);
	if (same && there[index].spec.only_v6 == spec->only_v6) {
		err = gates_each(change_in, &order);
	} else {
		err = open_all(&order, !same);
		if (err)
			return err;
		there[index].used = true;
		err = gates_each(open_in, &order);
		close_all(&order);
	}
	there[index].spec = *spec;
	return err;
}

int tw_gate_listener_remove(uint32_t index, uint32_t drain_ms)
{
	struct order order = { .index = index, .drain_ms = drain_ms };

	if (index >= TW_LISTENERS_MAX || !there[index].used)
		return tw_fail(ENOENT, "listener %u: there is none", index);
	there[index].used = false;
	return gates_each(leave_in, &order);
}

void sockets_forget(void)
{
	memset(there, 0, sizeof(there));
}
