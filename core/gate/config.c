/* SPDX-License-Identifier: BSD-3-Clause */
/* config.c - services as the control thread makes them, changes and removes them: each gate thread
 * takes them by a command, between two turns. */
#include "gate/lane.h"
#include "gate/listener.h"
#include "error.h"
#include "supervisor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct service *services[TW_SERVICES_MAX];

struct service *service_at(uint32_t index)
{
	return index < TW_SERVICES_MAX ? services[index] : NULL;
}

/* ---- in a gate thread ---- */

static void run_send(struct gate *gate, struct gate_task *task)
{
	(void)gate;
	lane_send((struct lane *)((char *)task - offsetof(struct lane, send)));
}

/* Exchanges that have come in this turn; those that come meanwhile are for the next one. */
static void run_start(struct gate *gate, struct gate_task *task)
{
	struct lane *lane = (struct lane *)((char *)task - offsetof(struct lane, start));
	struct flow *f;

	(void)gate;
	while ((f = TAILQ_FIRST(&lane->starts))) {
		TAILQ_REMOVE(&lane->starts, f, starts);
		flow_start(f);
	}
	/* Functions that run here have answered before clients are asked for their bodies. */
	if (!lane->link && lane->queued)
		lane_send(lane);
}

static int lane_open(struct gate *gate, void *ctx)
{
	struct service *service = ctx;
	struct gate_source *source = &service->source[gate->id];
	uint32_t i, blocks, unused[2];
	struct lane *lane;
	int fd, err;

	tw_pool_places(service->spec.memory_mb, &blocks, &unused[0], &unused[1]);
	lane = calloc(1, sizeof(*lane) + blocks * sizeof(lane->at[0]));
	if (!lane)
		return tw_fail(ENOMEM, "service %s: no memory", service->spec.name);
	lane->blocks = blocks;
	lane->gate = gate;
	lane->service = service;
	lane->link = service->link[gate->id];
	lane->spec = service->spec;
	lane->send.run = run_send;
	lane->start.run = run_start;
	TAILQ_INIT(&lane->starts);
	for (i = 0; i < TW_STAGES_MAX; i++)
		TAILQ_INIT(&lane->queue[i]);
	lane_take(lane);
	fd = lane->link ? tw_link_fd(lane->link) : -1;
	lane->polls = lane->link && fd < 0;
	*source = (struct gate_source){ .fd = fd, .ready = lane_ready };
	err = fd >= 0 ? gate_watch(gate, source, EPOLLIN) : 0;
	if (err < 0) {
		free(lane);
		return err;
	}
	service->lane[gate->id] = lane;
	gate->service[service->index] = service;
	return 0;
}

/* Its exchanges end here, answered or not. */
static int lane_close(struct gate *gate, void *ctx)
{
	struct service *service = ctx;
	struct lane *lane = service->lane[gate->id];
	uint32_t i;

	if (!lane)
		return 0;
	lane->leaving = true;
	clients_service_gone(gate, service);
	for (i = 0; i < gate->n_exchanges; i++) {
		struct flow *f = flow_of(gate->exchanges[i]);

		if (f->x.state == X_FREE || f->lane != lane || f->fetch)
			continue;
		if (f->x.client && !f->x.client_gone)
			f->x.client->close(&f->x);
		if (f->x.state != X_FREE && f->lane == lane)
			flow_free(f);
	}
	if (service->source[gate->id].fd >= 0)
		gate_unwatch(gate, &service->source[gate->id]);
	gate_forget(gate, &lane->send);
	gate_forget(gate, &lane->start);
	if (lane->polling)
		gate->polling--;
	patrol_free(lane);
	fetch_forget(lane, UINT32_MAX);
	inline_load(gate, service->index, NULL, 0);
	gate->service[service->index] = NULL;
	service->lane[gate->id] = NULL;
	free(lane);
	return 0;
}

static int lane_leave(struct gate *gate, void *ctx)
{
	struct service *service = ctx;

	if (service->lane[gate->id])
		service->lane[gate->id]->leaving = true;
	return 0;
}

struct change {
	struct service *service;
	const struct tw_service_spec *spec;
};

static int number_of(const struct tw_service_spec *spec, const char *name)
{
	uint32_t i;

	for (i = 0; i < spec->n_functions; i++)
		if (strncmp(spec->function[i].name, name, TW_NAME_LEN) == 0)
			return i;
	return -1;
}

/* What waits for a function goes on waiting for it; what waits for one that is gone is answered. */
static void renumber(struct lane *lane, const struct tw_service_spec *before)
{
	struct out_queue all = TAILQ_HEAD_INITIALIZER(all);
	struct out *out;
	uint32_t i;
	int now;

	for (i = 0; i < TW_STAGES_MAX; i++)
		TAILQ_CONCAT(&all, &lane->queue[i], link);
	lane->queued = 0;
	while ((out = TAILQ_FIRST(&all))) {
		TAILQ_REMOVE(&all, out, link);
		now = number_of(&lane->spec, before->function[out->function].name);
		out->place = OUT_IDLE;
		if (now >= 0) {
			uint64_t since = out->since;

			lane_put(lane, out, now);
			out->since = since;
		} else {
			flow_fail(out->flow, 503, "the function has left the service");
		}
	}
}

static int lane_change(struct gate *gate, void *ctx)
{
	struct change *change = ctx;
	struct lane *lane = change->service->lane[gate->id];
	struct tw_service_spec before;

	if (!lane)
		return 0;
	before = lane->spec;
	lane->spec = *change->spec;
	lane_take(lane);
	renumber(lane, &before);
	return 0;
}

/* ---- in the control thread ---- */

static int check(uint32_t index, const struct tw_service_spec *spec)
{
	uint32_t i, j;

	if (index >= TW_SERVICES_MAX)
		return tw_fail(EINVAL, "service %u: there are at most %d", index, TW_SERVICES_MAX);
	if (!gates_running())
		return tw_fail(ENODEV, "service %s: no gate thread runs (tw_gates_start)",
		               spec->name);
	if (spec->n_functions >= TW_STAGES_MAX)
		return tw_fail(EINVAL, "service %s: %u functions, at most %d", spec->name,
		               spec->n_functions, TW_STAGES_MAX - 1);
	if (spec->transport > TW_TRANSPORT_INLINE)
		return tw_fail(EINVAL, "service %s: transport %u is none", spec->name,
		               spec->transport);
	if (spec->group >= (int32_t)TW_GROUPS_MAX)
		return tw_fail(EINVAL, "service %s: group %d, at most %d", spec->name, spec->group,
		               TW_GROUPS_MAX - 1);
	for (i = 0; i < spec->n_functions; i++)
		for (j = 0; j < i; j++)
			if (strncmp(spec->function[i].name, spec->function[j].name, TW_NAME_LEN) ==
			    0)
				return tw_fail(EINVAL, "service %s: two functions are named %s",
				               spec->name, spec->function[i].name);
	return 0;
}

static void service_free(struct service *service)
{
	uint32_t i;

	/* Those of threads that have ended. */
	for (i = 0; i < TW_GATES_MAX; i++) {
		if (service->lane[i])
			patrol_forget(service->lane[i]);
		free(service->lane[i]);
	}
	if (service->fabric)
		tw_fabric_free(service->fabric);
	else if (service->pool)
		tw_pool_close(service->pool);
	free(service);
}

static int make_transport(struct service *service)
{
	uint32_t i, gates = gates_running();
	int err;

	if (service->spec.transport == TW_TRANSPORT_INLINE)
		return tw_pool_create(&service->pool, service->spec.name, service->spec.memory_mb,
		                      -1);
	err = tw_fabric_new(&service->fabric, &service->spec, gates);
	if (err < 0)
		return err;
	service->pool = tw_fabric_pool(service->fabric);
	for (i = 0; i < gates; i++) {
		service->link[i] = tw_fabric_gate(service->fabric, i);
		if (!service->link[i])
			return tw_fail(EINVAL, "service %s: no link for gate thread %u",
			               service->spec.name, i);
	}
	return 0;
}

static int service_make(uint32_t index, const struct tw_service_spec *spec)
{
	struct service *service = calloc(1, sizeof(*service));
	int err;

	if (!service)
		return tw_fail(ENOMEM, "service %s: no memory", spec->name);
	service->index = index;
	service->spec = *spec;
	err = make_transport(service);
	if (err < 0)
		goto out;
	err = gates_each(lane_open, service);
	if (err < 0) {
		gates_each(lane_close, service);
		goto out;
	}
	services[index] = service;
	if (service->fabric)
		err = tw_supervisor_service(index, spec, service->fabric, service);
	if (err < 0) {
		gates_each(lane_close, service);
		services[index] = NULL;
	}
out:
	if (err < 0)
		service_free(service);
	return err;
}

/* Gates first: what they send to a function that the fabric does not know yet waits a moment. */
static int service_change(struct service *service, const struct tw_service_spec *spec)
{
	struct change change = { service, spec };
	uint32_t i;
	int err;

	if (spec->transport != service->spec.transport ||
	    spec->memory_mb != service->spec.memory_mb)
		return tw_fail(EBUSY,
		               "service %s: transport and memory cannot be changed while it is "
		               "there: remove it first",
		               spec->name);
	/* Instances stand behind numbers. */
	for (i = 0; service->fabric && i < spec->n_functions && i < service->spec.n_functions; i++)
		if (strncmp(spec->function[i].name, service->spec.function[i].name, TW_NAME_LEN))
			return tw_fail(
				EBUSY,
				"service %s: function %u is %s and cannot become %s while it "
				"runs: make a new service of the other order",
				spec->name, i, service->spec.function[i].name,
				spec->function[i].name);
	if (service->fabric) {
		tw_supervisor_hold();
		err = tw_fabric_route(service->fabric, spec);
		tw_supervisor_release();
		if (err < 0)
			return err;
	}
	err = gates_each(lane_change, &change);
	if (err < 0)
		return err;
	service->spec = *spec;
	return service->fabric
	               ? tw_supervisor_service(service->index, spec, service->fabric, service)
	               : 0;
}

int tw_gate_service(uint32_t index, const struct tw_service_spec *spec)
{
	int err = check(index, spec);

	if (err < 0)
		return err;
	return services[index] ? service_change(services[index], spec) : service_make(index, spec);
}

static uint32_t in_flight(struct service *service)
{
	uint32_t i, n = 0;

	for (i = 0; i < TW_GATES_MAX; i++)
		n += atomic_load_explicit(&service->in_flight[i], memory_order_relaxed);
	return n;
}

int tw_gate_service_remove(uint32_t index, uint32_t drain_ms)
{
	const struct timespec pause = { .tv_nsec = 2000000 };
	struct service *service = service_at(index);
	uint32_t waited;

	if (!service)
		return tw_fail(ENOENT, "there is no service %u", index);
	gates_each(lane_leave, service);
	for (waited = 0; waited < drain_ms && in_flight(service); waited += 2)
		nanosleep(&pause, NULL);
	gates_each(lane_close, service);
	if (service->fabric)
		tw_supervisor_service(index, NULL, NULL, NULL);
	services[index] = NULL;
	service_free(service);
	return 0;
}

struct load {
	uint32_t service;
	const char *blob;
	size_t len;
};

static int load_inline(struct gate *gate, void *ctx)
{
	const struct load *load = ctx;

	return inline_load(gate, load->service, load->blob, load->len);
}

int tw_gate_inline(uint32_t service, const char *blob, size_t len)
{
	struct load load = { service, blob, len };

	if (!service_at(service))
		return tw_fail(ENOENT, "there is no service %u to run functions of", service);
	return gates_each(load_inline, &load);
}

void services_stop(void)
{
	uint32_t i;

	for (i = 0; i < TW_SERVICES_MAX; i++)
		if (services[i])
			tw_gate_service_remove(i, 0);
}
