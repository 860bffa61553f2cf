/* SPDX-License-Identifier: BSD-3-Clause */
/* control.c - gate threads are started and stopped, and hear from other threads. */
#include "gate/loop.h"

#include "error.h"
#include "gate/listener.h"
#include "supervisor.h"
#include "gate/upstream.h"
#include "privilege.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static struct gate *gates[TW_GATES_MAX];
static _Atomic uint32_t n_gates;

uint32_t gates_running(void)
{
	return atomic_load_explicit(&n_gates, memory_order_acquire);
}

/* ---- commands ---- */

void loop_commands(struct gate *gate)
{
	struct loop *loop = loop_of(gate);
	struct loop_command *command;

	pthread_mutex_lock(&loop->lock);
	while ((command = loop->first_command)) {
		loop->first_command = command->next;
		if (!loop->first_command)
			loop->last_command = &loop->first_command;
		pthread_mutex_unlock(&loop->lock);
		if (command->post) {
			command->post(gate, command->ctx);
			free(command->ctx);
			free(command);
			pthread_mutex_lock(&loop->lock);
			continue;
		}
		command->result = command->each(gate, command->ctx);
		if (command->result < 0)
			snprintf(command->error, sizeof(command->error), "%s", tw_error());
		pthread_mutex_lock(&loop->lock);
		command->done = true;
		pthread_cond_broadcast(&loop->done);
	}
	pthread_mutex_unlock(&loop->lock);
}

static void send_command(struct gate *gate, struct loop_command *command)
{
	struct loop *loop = loop_of(gate);
	uint64_t one = 1;

	command->next = NULL;
	pthread_mutex_lock(&loop->lock);
	*loop->last_command = command;
	loop->last_command = &command->next;
	pthread_mutex_unlock(&loop->lock);
	while (write(loop->wake.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static int each_of(struct gate *gate, int (*fn)(struct gate *gate, void *ctx), void *ctx)
{
	struct loop *loop = loop_of(gate);
	struct loop_command command = { .each = fn, .ctx = ctx };

	send_command(gate, &command);
	pthread_mutex_lock(&loop->lock);
	while (!command.done)
		pthread_cond_wait(&loop->done, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
	return command.result < 0 ? tw_fail(-command.result, "%s", command.error) : 0;
}

int gates_each(int (*fn)(struct gate *gate, void *ctx), void *ctx)
{
	uint32_t n = gates_running();
	int first = 0;
	char error[256];

	for (uint32_t i = 0; i < n; i++) {
		int err = each_of(gates[i], fn, ctx);

		if (!err || first)
			continue;
		first = err;
		snprintf(error, sizeof(error), "%s", tw_error());
	}
	return first ? tw_fail(-first, "%s", error) : 0;
}

int gate_post(uint32_t id, void (*fn)(struct gate *gate, void *ctx), void *ctx)
{
	struct loop_command *command;

	if (id >= gates_running())
		return tw_fail(ENOENT, "gate %u: there are %u", id, gates_running());
	command = calloc(1, sizeof(*command));
	if (!command)
		return tw_fail(ENOMEM, "gate %u: no memory for a command", id);
	command->post = fn;
	command->ctx = ctx;
	send_command(gates[id], command);
	return 0;
}

/* ---- start ---- */

static void gate_free(struct gate *gate)
{
	struct loop *loop;

	if (!gate)
		return;
	loop = gate->loop;
	if (loop) {
		if (loop->wake.fd >= 0)
			close(loop->wake.fd);
		free(loop->heap);
		free(loop);
	}
	if (gate->listeners)
		listeners_end(gate);
	if (gate->epoll >= 0)
		close(gate->epoll);
	free(gate);
}

static int gate_new(uint32_t id, int cpu, struct gate **made)
{
	struct gate *gate = calloc(1, sizeof(*gate));
	struct loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (!gate || !loop) {
		free(gate);
		free(loop);
		return tw_fail(ENOMEM, "gate %u: no memory", id);
	}
	gate->id = id;
	gate->loop = loop;
	gate->epoll = epoll_create1(EPOLL_CLOEXEC);
	loop->cpu = cpu;
	loop->last_command = &loop->first_command;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->done, NULL);
	loop->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	loop->wake.ready = loop_woken;
	if (gate->epoll < 0 || loop->wake.fd < 0)
		err = tw_fail(errno, "gate %u: epoll or eventfd: %s", id, strerror(errno));
	else
		err = gate_watch(gate, &loop->wake, EPOLLIN);
	if (!err)
		err = listeners_begin(gate);
	if (err) {
		gate_free(gate);
		return err;
	}
	*made = gate;
	return 0;
}

static int launch(struct gate *gate)
{
	struct loop *loop = loop_of(gate);
	pthread_attr_t attr;
	sigset_t all, old;
	cpu_set_t cpus;
	char name[16];
	int err;

	pthread_attr_init(&attr);
	if (loop->cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET((unsigned)loop->cpu, &cpus);
		pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	}
	/* Signals are the control thread's; what a thread does to itself cannot be blocked. */
	sigfillset(&all);
	sigdelset(&all, TW_PRIVILEGE_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = pthread_create(&loop->thread, &attr, loop_main, gate);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (err)
		return tw_fail(err, "gate %u: no thread%s: %s", gate->id,
		               loop->cpu >= 0 ? " on its CPU" : "", strerror(err));
	snprintf(name, sizeof(name), "tw-gate-%u", gate->id);
	pthread_setname_np(loop->thread, name);
	return 0;
}

static int stop_now(struct gate *gate, void *ctx)
{
	(void)ctx;
	listeners_leave(gate);
	listeners_close_all(gate, UINT32_MAX);
	exchange_stop(gate);
	groups_close(gate);
	inline_free(gate);
	loop_of(gate)->stop = true;
	return 0;
}

static void join_all(uint32_t n)
{
	atomic_store_explicit(&n_gates, 0, memory_order_release);
	for (uint32_t i = 0; i < n; i++) {
		pthread_join(loop_of(gates[i])->thread, NULL);
		gate_free(gates[i]);
		gates[i] = NULL;
	}
}

int tw_gates_start(uint32_t count, const int *cpus)
{
	int err = 0;

	if (!count || count > TW_GATES_MAX)
		return tw_fail(EINVAL, "%u gate threads: 1 to %u are possible", count,
		               (unsigned)TW_GATES_MAX);
	if (gates_running())
		return tw_fail(EALREADY, "the gate threads run already: %u", gates_running());
	for (uint32_t i = 0; i < count && !err; i++) {
		err = gate_new(i, cpus ? cpus[i] : -1, &gates[i]);
		if (!err)
			err = launch(gates[i]);
		if (err) {
			gate_free(gates[i]);
			gates[i] = NULL;
		} else {
			atomic_store_explicit(&n_gates, i + 1, memory_order_release);
		}
	}
	if (err) {
		char why[256];

		snprintf(why, sizeof(why), "%s", tw_error());
		gates_each(stop_now, NULL);
		join_all(gates_running());
		return tw_fail(-err, "%s", why);
	}
	return 0;
}

/* ---- stop ---- */

static int leave(struct gate *gate, void *ctx)
{
	(void)ctx;
	gate->draining = true;
	listeners_leave(gate);
	return 0;
}

static int count_connections(struct gate *gate, void *ctx)
{
	*(uint32_t *)ctx += listeners_connections(gate);
	return 0;
}

static void wait_drained(uint32_t drain_ms)
{
	const struct timespec pause = { .tv_nsec = 5000000 };

	for (uint32_t waited = 0; waited < drain_ms; waited += 5) {
		uint32_t left = 0;

		gates_each(count_connections, &left);
		if (!left)
			return;
		nanosleep(&pause, NULL);
	}
}

int tw_gates_stop(uint32_t drain_ms)
{
	uint32_t n = gates_running();

	if (!n)
		return 0;
	gates_each(leave, NULL);
	wait_drained(drain_ms);
	/* The supervisor must not wait for a thread that has ended. */
	tw_supervisor_hold();
	gates_each(stop_now, NULL);
	join_all(n);
	tw_supervisor_release();
	services_stop();
	sockets_forget();
	return 0;
}

/* ---- figures ---- */

static const char *const counter_name[GATE_COUNTERS] = {
	[GATE_CONNECTIONS] = "connections",
	[GATE_REFUSED] = "refused",
	[GATE_REQUESTS] = "requests",
	[GATE_RESPONSES] = "responses",
	[GATE_BAD_REQUESTS] = "bad_requests",
	[GATE_TIMEOUTS] = "timeouts",
	[GATE_BYTES_IN] = "bytes_in",
	[GATE_BYTES_OUT] = "bytes_out",
	[GATE_UP_CONNECTIONS] = "upstream_connections",
	[GATE_UP_REUSED] = "upstream_reused",
	[GATE_UP_FAILED] = "upstream_failed",
	[GATE_UP_BYTES_IN] = "upstream_bytes_in",
	[GATE_UP_BYTES_OUT] = "upstream_bytes_out",
	[GATE_RETRIES] = "retries",
	[GATE_FAULTS] = "faults",
	[GATE_NO_BLOCK] = "no_block",
	[GATE_TURNS] = "turns",
	[GATE_SYSCALLS] = "syscalls",
	[GATE_COPIED] = "copied_bytes",
};

const char *tw_gate_counter_name(uint32_t counter)
{
	return counter < GATE_COUNTERS ? counter_name[counter] : NULL;
}

int tw_gate_stats(uint32_t id, struct tw_gate_stats *stats)
{
	struct timespec cpu = { 0 };
	struct gate *gate;
	clockid_t clock;

	if (id >= gates_running())
		return tw_fail(ENOENT, "gate %u: there are %u", id, gates_running());
	gate = gates[id];
	memset(stats, 0, sizeof(*stats));
	for (unsigned i = 0; i < GATE_COUNTERS; i++)
		stats->counter[i] = atomic_load_explicit(&gate->counter[i], memory_order_relaxed);
	if (!pthread_getcpuclockid(loop_of(gate)->thread, &clock))
		clock_gettime(clock, &cpu);
	stats->cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
	stats->connections = listeners_connections(gate);
	for (unsigned i = 0; i < TW_SERVICES_MAX; i++) {
		struct service *service =
			gate->service[i]; /* changed by this thread's orders only */

		if (service)
			stats->exchanges += atomic_load_explicit(&service->in_flight[id],
			                                         memory_order_relaxed);
	}
	return 0;
}
