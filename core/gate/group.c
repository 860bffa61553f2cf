/* SPDX-License-Identifier: BSD-3-Clause */
/* group.c - upstream groups in a gate thread: their servers, who is chosen, how many connections
 * each has; streams and datagrams choose here too. What the control thread says: group_table.c. */
#include "gate/upstream.h"
#include "gate/group_table.h"
#include "gate/l4.h"
#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- servers ---- */

static struct server *server_new(struct group *group, struct server_shared *shared)
{
	struct server *server;
	uint32_t i;

	for (i = 0; i < SERVER_SLOTS && group->slot[i]; i++)
		;
	if (i == SERVER_SLOTS) {
		tw_fail(EBUSY,
		        "upstream group \"%s\": too many removed servers still have connections; "
		        "change it again when they have ended",
		        group->spec ? group->spec->name : shared->group);
		return NULL;
	}
	server = calloc(1, sizeof(*server));
	if (!server) {
		tw_fail(ENOMEM, "no memory for server %s", shared->name);
		return NULL;
	}
	server->group = group;
	server->shared = server_shared_ref(shared);
	server->figures = &shared->thread[group->gate->id % TW_GATES_MAX];
	server->slot = i;
	group->slot[i] = server;
	return server;
}

static void server_free(struct server *server)
{
	server->group->slot[server->slot] = NULL;
	server_shared_unref(server->shared);
	free(server);
}

/* Nothing new goes there; freed with the last connection that is in use. */
static void server_remove(struct server *server)
{
	server->gone = true;
	health_check_stop(server);
	server_drop_idle(server);
	if (!server->active)
		server_free(server);
}

static void publish(struct server *server)
{
	atomic_store_explicit(&server->figures->active, server->active, memory_order_relaxed);
	atomic_store_explicit(&server->figures->idle, server->n_idle, memory_order_relaxed);
	if (!server->gone)
		server->group->load[server->number].active = server->active;
}

void server_busy(struct server *server)
{
	server->active++;
	publish(server);
}

void server_unbusy(struct server *server)
{
	struct group *group = server->group;

	server->active--;
	publish(server);
	if (server->gone && !server->active)
		server_free(server);
	if (group->first)
		gate_later(group->gate, &group->task);
}

void server_idles(struct server *server, int change)
{
	server->n_idle = (uint32_t)((int)server->n_idle + change);
	publish(server);
}

/* ---- a table is taken ---- */

static struct server *find(struct group *group, const struct server_shared *shared)
{
	uint32_t i;

	for (i = 0; i < SERVER_SLOTS; i++)
		if (group->slot[i] && group->slot[i]->shared == shared)
			return group->slot[i];
	return NULL;
}

static void install(struct group *group, struct group_table *table, struct server **next)
{
	const struct tw_group_spec *spec = &table->spec;
	uint32_t i;

	group->n = spec->n_servers;
	group->weighted = 0;
	for (i = 0; i < group->n; i++) {
		struct server *server = next[i];

		server->gone = false;
		server->number = i;
		group->server[i] = server;
		group->load[i].weight = spec->server[i].weight;
		group->load[i].identity = tw_balance_identity(&spec->server[i].address);
		group->load[i].current = 0;
		group->load[i].active = server->active;
		group->weighted += spec->server[i].weight > 0;
	}
	if (group->table)
		group_table_unref(group->table);
	group->table = table;
	group->spec = spec;
	group->removed = false;
	for (i = 0; i < group->n; i++)
		if (!spec->server[i].weight || !spec->keepalive)
			server_drop_idle(group->server[i]);
}

/* The reference to the table becomes the group's when this is 0. */
static int take(struct group *group, struct group_table *table)
{
	struct server *next[TW_SERVERS_MAX];
	uint64_t made = 0;
	uint32_t i, j;
	int err = 0;

	for (i = 0; i < table->spec.n_servers; i++) {
		next[i] = find(group, table->shared[i]);
		if (next[i])
			continue;
		next[i] = server_new(group, table->shared[i]);
		if (!next[i]) {
			for (j = 0; j < i; j++)
				if (made >> j & 1)
					server_free(next[j]);
			return -ENOMEM;
		}
		made |= 1ull << i;
	}
	for (i = 0; i < SERVER_SLOTS; i++) {
		struct server *server = group->slot[i];

		for (j = 0; j < table->spec.n_servers && next[j] != server; j++)
			;
		if (server && j == table->spec.n_servers && !server->gone)
			server_remove(server);
	}
	install(group, table, next);
	for (i = 0; i < group->n && !group->gate->id; i++) {
		int failed = health_check_set(group->server[i]);

		err = err ? err : failed;
	}
	if (group->first)
		gate_later(group->gate, &group->task);
	return err;
}

static void remove_all(struct group *group)
{
	uint32_t i;

	group->removed = true;
	group->n = 0;
	for (i = 0; i < SERVER_SLOTS; i++)
		if (group->slot[i] && !group->slot[i]->gone)
			server_remove(group->slot[i]);
	upstream_queue_refuse(group);
}

static void look_after_queue(struct gate *gate, struct gate_task *task)
{
	(void)gate;
	upstream_queue_run((struct group *)((char *)task - __builtin_offsetof(struct group, task)));
}

int group_take(struct gate *gate, uint32_t index)
{
	struct group *group = gate->group[index];
	struct group_table *table = group_table_get(index);
	int err;

	if (!table) {
		if (group && !group->removed)
			remove_all(group);
		return 0;
	}
	if (!group) {
		group = calloc(1, sizeof(*group));
		if (!group) {
			group_table_unref(table);
			return tw_fail(ENOMEM, "no memory for upstream group %u", index);
		}
		group->gate = gate;
		group->index = index;
		group->removed = true;
		group->task.run = look_after_queue;
		gate->group[index] = group;
	}
	if (table == group->table && !group->removed) {
		group_table_unref(table);
		return 0;
	}
	err = take(group, table);
	if (group->table != table)
		group_table_unref(table);
	return err;
}

struct group *group_get(struct gate *gate, uint32_t index)
{
	if (index < TW_GROUPS_MAX) {
		if (!gate->group[index])
			group_take(gate, index);
		if (gate->group[index] && !gate->group[index]->removed)
			return gate->group[index];
	}
	tw_fail(ENOENT, "there is no upstream group %u", index);
	return NULL;
}

int groups_open(struct gate *gate)
{
	uint32_t i;
	int err = 0, failed;

	for (i = 0; i < TW_GROUPS_MAX; i++) {
		failed = group_take(gate, i);
		err = err ? err : failed;
	}
	return err;
}

void groups_close(struct gate *gate)
{
	uint32_t i, j;

	for (i = 0; i < TW_GROUPS_MAX; i++) {
		struct group *group = gate->group[i];

		if (!group)
			continue;
		remove_all(group);
		for (j = 0; j < SERVER_SLOTS; j++)
			if (group->slot[j])
				server_free(group->slot[j]);
		gate_forget(gate, &group->task);
		if (group->table)
			group_table_unref(group->table);
		free(group);
		gate->group[i] = NULL;
	}
	upstream_close(gate);
}

/* ---- the choice ---- */

/* Why none may be chosen. */
static void say_why(struct group *group, uint64_t tried, bool full, char *why, size_t size)
{
	const char *name = group->spec->name;
	struct server_shared *shared;
	uint32_t i;

	if (full) {
		snprintf(why, size,
		         "upstream group \"%s\": every server has %u connections, the limit", name,
		         group->spec->connections);
		return;
	}
	if (!group->weighted) {
		snprintf(why, size, "upstream group \"%s\" has no server that takes requests",
		         name);
		return;
	}
	for (i = 0; i < group->n; i++) {
		if (!group->load[i].weight || tried & server_bit(group->server[i]))
			continue;
		shared = group->server[i]->shared;
		pthread_mutex_lock(&shared->lock);
		snprintf(why, size, "upstream group \"%s\": all servers are down; %s: %s", name,
		         shared->name, shared->last);
		pthread_mutex_unlock(&shared->lock);
		return;
	}
	snprintf(why, size, "upstream group \"%s\" has no other server", name);
}

struct server *group_pick(struct group *group, uint64_t key, uint64_t tried, bool *full, char *why,
                          size_t why_size)
{
	uint32_t limit = group->spec->connections, i;
	bool alone = group->weighted == 1;
	uint64_t now = group->gate->now;
	int best;

	*full = false;
	for (i = 0; i < group->n; i++) {
		struct server *server = group->server[i];
		struct tw_balance_server *load = &group->load[i];

		load->skip = tried & server_bit(server) || !health_up(server, now, alone);
		if (!load->skip && load->weight && limit && server->active >= limit) {
			load->skip = true;
			*full = true;
		}
	}
	for (;;) {
		best = tw_balance_choose(group->spec->balance, group->load, group->n, key);
		if (best < 0)
			break;
		if (alone || health_chosen(group->server[best], now))
			return group->server[best];
		group->load[best].skip = true;
	}
	if (why)
		say_why(group, tried, *full, why, why_size);
	return NULL;
}

/* ---- for streams and datagrams ---- */

int group_choose(struct gate *gate, uint32_t index, uint32_t key, uint64_t tried,
                 struct group_choice *choice)
{
	struct group *group = group_get(gate, index);
	struct server *server;
	char why[192];
	bool full;

	if (!group)
		return -ENOENT;
	server = group_pick(group, key, tried, &full, why, sizeof(why));
	if (!server)
		return tw_fail(full ? EAGAIN : EHOSTUNREACH, "%s", why);
	server_busy(server);
	server_count(&server->figures->requests);
	*choice = (struct group_choice){
		.server = server->slot,
		.address = &server->shared->address,
		.protocol = group->spec->protocol,
		.connect_ms = group->spec->connect_ms,
		.idle_ms = group->spec->idle_ms,
		.retries = group->spec->retries,
		.proxy = group->spec->proxy,
	};
	return 0;
}

void group_release(struct gate *gate, uint32_t index, uint32_t slot, const char *why)
{
	struct group *group = index < TW_GROUPS_MAX ? gate->group[index] : NULL;
	struct server *server = group && slot < SERVER_SLOTS ? group->slot[slot] : NULL;

	if (!server || !server->active)
		return;
	if (!why) {
		health_good(server);
	} else if (*why) {
		gate_count(gate, GATE_UP_FAILED, 1);
		health_bad(server, why);
	}
	server_unbusy(server);
}
