/* SPDX-License-Identifier: BSD-3-Clause */
/* group_table.c - upstream groups as the control thread gives them: checked, shared with all gate
 * threads, and what these say of their servers. */
#include "gate/group_table.h"
#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct group_table *tables[TW_GROUPS_MAX];

/* ---- what is shared ---- */

struct server_shared *server_shared_ref(struct server_shared *shared)
{
	atomic_fetch_add_explicit(&shared->refs, 1, memory_order_relaxed);
	return shared;
}

void server_shared_unref(struct server_shared *shared)
{
	/* The last one sees what the others did with it. */
	if (shared && atomic_fetch_sub_explicit(&shared->refs, 1, memory_order_acq_rel) == 1) {
		pthread_mutex_destroy(&shared->lock);
		free(shared);
	}
}

static const char *host_of(const struct tw_server_spec *server)
{
	return server->host[0] ? server->host : server->name;
}

static struct server_shared *shared_new(const struct tw_group_spec *spec,
                                        const struct tw_server_spec *server)
{
	struct server_shared *shared = aligned_alloc(64, sizeof(*shared));

	if (!shared)
		return NULL;
	memset(shared, 0, sizeof(*shared));
	atomic_store_explicit(&shared->refs, 1, memory_order_relaxed);
	pthread_mutex_init(&shared->lock, NULL);
	shared->address = server->address;
	snprintf(shared->name, sizeof(shared->name), "%s", server->name);
	snprintf(shared->host, sizeof(shared->host), "%s", host_of(server));
	snprintf(shared->group, sizeof(shared->group), "%s", spec->name);
	return shared;
}

void group_table_unref(struct group_table *table)
{
	uint32_t i;

	if (!table || atomic_fetch_sub_explicit(&table->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (i = 0; i < table->spec.n_servers; i++)
		server_shared_unref(table->shared[i]);
	free(table);
}

struct group_table *group_table_get(uint32_t index)
{
	struct group_table *table = NULL;

	pthread_mutex_lock(&lock);
	if (index < TW_GROUPS_MAX)
		table = tables[index];
	if (table)
		atomic_fetch_add_explicit(&table->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&lock);
	return table;
}

/* ---- a specification becomes a table ---- */

static bool same_address(const struct tw_endpoint_address *a, const struct tw_endpoint_address *b)
{
	if (a->family == TW_ADDRESS_UNIX)
		return b->family == TW_ADDRESS_UNIX && !strcmp(a->path, b->path);
	return a->family == b->family && a->port == b->port && a->scope == b->scope &&
	       !memcmp(a->bytes, b->bytes, a->family == 4 ? 4 : 16);
}

static int check_address(const struct tw_group_spec *spec, const struct tw_server_spec *server)
{
	const struct tw_endpoint_address *address = &server->address;

	if (address->family == TW_ADDRESS_UNIX) {
		if (address->path[0] != '/')
			return tw_fail(EINVAL,
			               "upstream group \"%s\": server \"%s\" has no absolute "
			               "path: \"%s\"",
			               spec->name, server->name, address->path);
		if (spec->protocol == TW_LISTEN_UDP)
			return tw_fail(EINVAL,
			               "upstream group \"%s\": no datagrams go to the socket of "
			               "server \"%s\"",
			               spec->name, server->name);
	} else if ((address->family != 4 && address->family != 6) || !address->port) {
		return tw_fail(EINVAL,
		               "upstream group \"%s\": server \"%s\" has no address and port",
		               spec->name, server->name);
	}
	return 0;
}

static int check(uint32_t index, const struct tw_group_spec *spec)
{
	uint32_t i, j;
	int err;

	if (index >= TW_GROUPS_MAX)
		return tw_fail(ENOSPC, "upstream group %u: there is room for %u", index,
		               TW_GROUPS_MAX);
	if (spec->n_servers > TW_SERVERS_MAX)
		return tw_fail(EINVAL, "upstream group \"%s\" has %u servers; at most %u",
		               spec->name, spec->n_servers, TW_SERVERS_MAX);
	if (spec->balance > TW_BALANCE_HASH)
		return tw_fail(EINVAL, "upstream group \"%s\": no balance %u", spec->name,
		               spec->balance);
	if (spec->proxy > 2)
		return tw_fail(EINVAL, "upstream group \"%s\": no PROXY protocol version %u",
		               spec->name, spec->proxy);
	for (i = 0; i < spec->n_servers; i++) {
		const struct tw_server_spec *server = &spec->server[i];

		err = check_address(spec, server);
		if (err)
			return err;
		if (server->weight > 1000000)
			return tw_fail(
				EINVAL,
				"upstream group \"%s\": server \"%s\" has weight %u; at most "
				"1000000",
				spec->name, server->name, server->weight);
		for (j = 0; j < i; j++)
			if (same_address(&server->address, &spec->server[j].address))
				return tw_fail(
					EEXIST,
					"upstream group \"%s\": servers \"%s\" and \"%s\" have "
					"the same address; give one a higher weight instead",
					spec->name, spec->server[j].name, server->name);
	}
	return 0;
}

static uint32_t or_else(uint32_t value, uint32_t otherwise)
{
	return value ? value : otherwise;
}

/* A NUL where a text must end, and times that a server which says nothing needs. */
static void complete(struct tw_group_spec *spec)
{
	uint32_t i;

	spec->name[sizeof(spec->name) - 1] = 0;
	spec->check_path[sizeof(spec->check_path) - 1] = 0;
	spec->host[sizeof(spec->host) - 1] = 0;
	for (i = 0; i < spec->n_servers && i < TW_SERVERS_MAX; i++) {
		spec->server[i].name[sizeof(spec->server[i].name) - 1] = 0;
		spec->server[i].host[sizeof(spec->server[i].host) - 1] = 0;
		spec->server[i].address.path[TW_UNIX_LEN - 1] = 0;
	}
	spec->connect_ms = or_else(spec->connect_ms, 5000);
	spec->response_ms = or_else(spec->response_ms, 60000);
	spec->idle_ms = or_else(spec->idle_ms, 60000);
	spec->fail_ms = or_else(spec->fail_ms, 10000);
	spec->check_timeout_ms = or_else(spec->check_timeout_ms, 2000);
	spec->rise = or_else(spec->rise, 1);
	spec->fall = or_else(spec->fall, 1);
	if (spec->check_ms && spec->check_ms < 10)
		spec->check_ms = 10;
}

static bool same_server(const struct tw_server_spec *server, const struct server_shared *shared)
{
	return same_address(&server->address, &shared->address) &&
	       !strcmp(server->name, shared->name) && !strcmp(host_of(server), shared->host);
}

/* Servers that were there keep what is known of them. */
static struct group_table *table_new(const struct tw_group_spec *spec, struct group_table *old)
{
	struct group_table *table = calloc(1, sizeof(*table));
	uint32_t i, j;

	if (!table)
		return NULL;
	atomic_store_explicit(&table->refs, 1, memory_order_relaxed);
	table->spec = *spec;
	for (i = 0; i < spec->n_servers; i++) {
		for (j = 0; old && j < old->spec.n_servers; j++)
			if (same_server(&spec->server[i], old->shared[j]))
				table->shared[i] = server_shared_ref(old->shared[j]);
		if (!table->shared[i])
			table->shared[i] = shared_new(spec, &spec->server[i]);
		if (!table->shared[i]) {
			group_table_unref(table);
			return NULL;
		}
	}
	return table;
}

static int take_in_thread(struct gate *gate, void *ctx)
{
	return group_take(gate, *(uint32_t *)ctx);
}

static void publish(uint32_t index, struct group_table *table)
{
	struct group_table *old;

	pthread_mutex_lock(&lock);
	old = tables[index];
	tables[index] = table;
	pthread_mutex_unlock(&lock);
	group_table_unref(old);
}

int tw_gate_group(uint32_t index, const struct tw_group_spec *spec)
{
	struct tw_group_spec whole = *spec;
	struct group_table *table;
	int err;

	complete(&whole);
	err = check(index, &whole);
	if (err)
		return err;
	/* Only this thread changes tables[]. */
	table = table_new(&whole, tables[index]);
	if (!table)
		return tw_fail(ENOMEM, "no memory for upstream group \"%s\"", whole.name);
	publish(index, table);
	return gates_each(take_in_thread, &index);
}

int tw_gate_group_remove(uint32_t index)
{
	if (index >= TW_GROUPS_MAX || !tables[index])
		return tw_fail(ENOENT, "there is no upstream group %u", index);
	publish(index, NULL);
	return gates_each(take_in_thread, &index);
}

/* ---- figures ---- */

int tw_group_stats(uint32_t group, uint32_t server, struct tw_server_stats *stats)
{
	struct group_table *table = group_table_get(group);
	struct server_shared *shared;
	uint32_t weighted = 0, i;

	memset(stats, 0, sizeof(*stats));
	if (!table || server >= table->spec.n_servers) {
		group_table_unref(table);
		return tw_fail(ENOENT, "there is no server %u of upstream group %u", server, group);
	}
	shared = table->shared[server];
	for (i = 0; i < table->spec.n_servers; i++)
		weighted += table->spec.server[i].weight > 0;
	stats->up = !atomic_load_explicit(&shared->check_down, memory_order_relaxed) &&
	            (weighted == 1 ||
	             !atomic_load_explicit(&shared->out_until, memory_order_relaxed));
	for (i = 0; i < TW_GATES_MAX; i++) {
		struct server_figures *f = &shared->thread[i];

		stats->active += atomic_load_explicit(&f->active, memory_order_relaxed);
		stats->idle += atomic_load_explicit(&f->idle, memory_order_relaxed);
		stats->requests += atomic_load_explicit(&f->requests, memory_order_relaxed);
		stats->failures += atomic_load_explicit(&f->failures, memory_order_relaxed);
	}
	stats->checks = atomic_load_explicit(&shared->checks, memory_order_relaxed);
	stats->failed_checks = atomic_load_explicit(&shared->failed_checks, memory_order_relaxed);
	pthread_mutex_lock(&shared->lock);
	snprintf(stats->last, sizeof(stats->last), "%s", shared->last);
	pthread_mutex_unlock(&shared->lock);
	group_table_unref(table);
	return 0;
}
