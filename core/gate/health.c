/* SPDX-License-Identifier: BSD-3-Clause */
/* health.c - which servers are down: passive, by what becomes of requests, in all threads at once;
 * active, by checks that thread 0 makes. */
#include "gate/upstream.h"
#include "error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS 1000000ull

static void say_last(struct server_shared *shared, const char *why)
{
	pthread_mutex_lock(&shared->lock);
	snprintf(shared->last, sizeof(shared->last), "%s", why);
	pthread_mutex_unlock(&shared->lock);
}

/* ---- passive ---- */

bool health_up(const struct server *server, uint64_t now, bool alone)
{
	struct server_shared *shared = server->shared;
	uint64_t until;

	if (atomic_load_explicit(&shared->check_down, memory_order_relaxed))
		return false;
	until = atomic_load_explicit(&shared->out_until, memory_order_relaxed);
	/* Taking the only one out would help nobody. */
	return !until || now >= until || alone;
}

/* Who tries it puts the others off for another fail_ms, so there is no flag that could stay set
 * when the request is given up. */
bool health_chosen(struct server *server, uint64_t now)
{
	struct server_shared *shared = server->shared;
	uint64_t until = atomic_load_explicit(&shared->out_until, memory_order_relaxed);

	if (!until)
		return true;
	return now >= until &&
	       atomic_compare_exchange_strong_explicit(&shared->out_until, &until,
	                                               now + server->group->spec->fail_ms * MS,
	                                               memory_order_relaxed, memory_order_relaxed);
}

void health_good(struct server *server)
{
	struct server_shared *shared = server->shared;

	if (!atomic_load_explicit(&shared->out_until, memory_order_relaxed))
		return;
	atomic_store_explicit(&shared->fails, 0, memory_order_relaxed);
	if (atomic_exchange_explicit(&shared->out_until, 0, memory_order_relaxed))
		tw_log("upstream group \"%s\": server %s answers again", shared->group,
		       shared->name);
}

void health_bad(struct server *server, const char *why)
{
	const struct tw_group_spec *spec = server->group->spec;
	struct server_shared *shared = server->shared;
	uint64_t now = server->group->gate->now, window, none = 0;
	uint32_t fails;

	server_count(&server->figures->failures);
	say_last(shared, why);
	if (!spec->fails || server->gone)
		return;
	if (atomic_load_explicit(&shared->out_until, memory_order_relaxed)) {
		atomic_store_explicit(&shared->out_until, now + spec->fail_ms * MS,
		                      memory_order_relaxed);
		return;
	}
	window = atomic_load_explicit(&shared->window, memory_order_relaxed);
	if (!window || now > window + spec->fail_ms * MS) {
		/* Two threads that begin a window at once may lose one count: no harm. */
		atomic_store_explicit(&shared->window, now, memory_order_relaxed);
		atomic_store_explicit(&shared->fails, 0, memory_order_relaxed);
	}
	fails = atomic_fetch_add_explicit(&shared->fails, 1, memory_order_relaxed) + 1;
	if (fails < spec->fails || server->group->weighted <= 1)
		return;
	if (atomic_compare_exchange_strong_explicit(&shared->out_until, &none,
	                                            now + spec->fail_ms * MS, memory_order_relaxed,
	                                            memory_order_relaxed))
		tw_log("upstream group \"%s\": server %s is out for %u ms after %u failures: %s",
		       shared->group, shared->name, spec->fail_ms, fails, why);
}

/* ---- active ---- */

struct health_check {
	struct gate_source source; /* fd -1: none is under way */
	struct gate_timer timer;   /* the next one, or the end of this one */
	struct gate *gate;
	struct server *server;
	uint32_t streak; /* of results that contradict what is known */
	bool asked;
	bool skips; /* in the head of an interim response */
	uint32_t got;
	char answer[64];
};

static void check_begin(struct gate *gate, struct health_check *check);

static void check_close(struct health_check *check)
{
	if (check->source.fd < 0)
		return;
	gate_unwatch(check->gate, &check->source);
	close(check->source.fd);
	check->source.fd = -1;
}

/* NULL: good. */
static void check_result(struct health_check *check, const char *why)
{
	struct server_shared *shared = check->server->shared;
	const struct tw_group_spec *spec = check->server->group->spec;
	bool down = atomic_load_explicit(&shared->check_down, memory_order_relaxed);

	check_close(check);
	server_count(&shared->checks);
	if (why) {
		server_count(&shared->failed_checks);
		say_last(shared, why);
	}
	check->streak = down == !why ? check->streak + 1 : 0;
	if (check->streak && check->streak >= (down ? spec->rise : spec->fall)) {
		check->streak = 0;
		atomic_store_explicit(&shared->check_down, !down, memory_order_relaxed);
		if (down)
			tw_log("upstream group \"%s\": server %s is up again", shared->group,
			       shared->name);
		else
			tw_log("upstream group \"%s\": server %s is down: %s", shared->group,
			       shared->name, why);
	}
	gate_timer_set(check->gate, &check->timer, check->gate->now + spec->check_ms * MS);
}

static void check_failed(struct health_check *check, int err)
{
	char why[96];

	snprintf(why, sizeof(why), "check: %s", strerror(err));
	check_result(check, why);
}

static void check_ask(struct health_check *check)
{
	const struct tw_group_spec *spec = check->server->group->spec;
	char text[768];
	int len, sent;

	len = snprintf(text, sizeof(text),
	               "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: tideway-check\r\n"
	               "Connection: close\r\n\r\n",
	               spec->check_path, spec->host[0] ? spec->host : check->server->shared->host);
	sent = (int)send(check->source.fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < len) {
		check_failed(check, sent < 0 ? errno : ENOBUFS);
		return;
	}
	check->asked = true;
	if (gate_watch(check->gate, &check->source, EPOLLIN))
		check_failed(check, ENOMEM);
}

/* False: its end has not come yet; what may belong to it stays. */
static bool skip_interim(struct health_check *check)
{
	const char *end = memmem(check->answer, check->got, "\r\n\r\n", 4);
	uint32_t used = end ? (uint32_t)(end + 4 - check->answer)
	                    : (check->got > 3 ? check->got - 3 : 0);

	check->skips = !end;
	check->got -= used;
	memmove(check->answer, check->answer + used, check->got + 1);
	return end;
}

/* The status; 0: it has not come yet, -1: it will not. Only "HTTP/1.x NNN" is looked at. */
static int check_status(struct health_check *check, bool closed)
{
	unsigned status, minor;

	for (;;) {
		if (check->skips && !skip_interim(check))
			return closed ? -1 : 0;
		if (check->got < 13 && !closed)
			return 0;
		if (sscanf(check->answer, "HTTP/1.%1u %3u", &minor, &status) != 2)
			return -1;
		if (status >= 200 || status == 101)
			return (int)status;
		check->skips = true;
	}
}

static void check_answer(struct health_check *check)
{
	uint32_t wanted = check->server->group->spec->check_status;
	ssize_t n = recv(check->source.fd, check->answer + check->got,
	                 sizeof(check->answer) - 1 - check->got, MSG_DONTWAIT);
	int status;
	char why[96];

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		check_failed(check, errno);
		return;
	}
	check->got += (uint32_t)n;
	check->answer[check->got] = 0;
	status = check_status(check, n == 0);
	if (!status)
		return;
	if (status < 0) {
		check_result(check, check->got ? "check: the answer is not HTTP"
		                               : "check: closed without an answer");
		return;
	}
	if (wanted ? status == (int)wanted : status >= 200 && status < 400) {
		check_result(check, NULL);
		return;
	}
	snprintf(why, sizeof(why), "check: status %d", status);
	check_result(check, why);
}

static void check_open(struct health_check *check)
{
	const struct tw_group_spec *spec = check->server->group->spec;

	if (spec->protocol == TW_LISTEN_HTTP && spec->check_path[0])
		check_ask(check);
	else
		check_result(check, NULL);
}

static void check_ready(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct health_check *check = (struct health_check *)source;
	socklen_t len = sizeof(int);
	int err = 0;

	(void)gate;
	(void)events;
	if (check->asked) {
		check_answer(check);
		return;
	}
	if (getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err)
		check_failed(check, err);
	else
		check_open(check);
}

static void check_begin(struct gate *gate, struct health_check *check)
{
	const struct tw_group_spec *spec = check->server->group->spec;
	int err = server_socket(&check->server->shared->address, &check->source.fd);
	char why[96];

	check->asked = check->skips = false;
	check->got = 0;
	if (err && err != -EINPROGRESS) {
		snprintf(why, sizeof(why), "check: %s", tw_error());
		if (server_is_shortage(-err)) /* says nothing of the server */
			gate_timer_set(gate, &check->timer, gate->now + spec->check_ms * MS);
		else
			check_result(check, why);
		return;
	}
	gate_timer_set(gate, &check->timer, gate->now + spec->check_timeout_ms * MS);
	if (!err)
		check_open(check);
	else if (gate_watch(gate, &check->source, EPOLLOUT))
		check_failed(check, ENOMEM);
}

static void check_due(struct gate *gate, struct gate_timer *timer)
{
	struct health_check *check =
		(struct health_check *)((char *)timer -
	                                __builtin_offsetof(struct health_check, timer));

	if (check->source.fd < 0)
		check_begin(gate, check);
	else
		check_result(check, check->asked ? "check: no answer in time"
		                                 : "check: no connection in time");
}

int health_check_set(struct server *server)
{
	const struct tw_group_spec *spec = server->group->spec;
	struct gate *gate = server->group->gate;
	struct health_check *check = server->check;

	if (!spec->check_ms || spec->protocol == TW_LISTEN_UDP) {
		health_check_stop(server);
		return 0;
	}
	if (!check) {
		check = calloc(1, sizeof(*check));
		if (!check)
			return tw_fail(ENOMEM, "no memory for checks of server %s",
			               server->shared->name);
		check->source.fd = -1;
		check->source.ready = check_ready;
		check->timer.fire = check_due;
		check->gate = gate;
		check->server = server;
		server->check = check;
	}
	/* The first ones soon, but not all in the same moment. */
	if (check->source.fd < 0)
		gate_timer_set(gate, &check->timer, gate->now + (1 + server->number) * 5 * MS);
	return 0;
}

void health_check_stop(struct server *server)
{
	struct health_check *check = server->check;

	if (!check)
		return;
	check_close(check);
	gate_timer_cancel(check->gate, &check->timer);
	atomic_store_explicit(&server->shared->check_down, false, memory_order_relaxed);
	server->check = NULL;
	free(check);
}
