/* SPDX-License-Identifier: BSD-3-Clause */
/* table.c - making tables, the registry of those that live, and the sweep over them. */
#include "table.h"
#include "error.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Registry; changed by the control thread, the lock keeps a sweep off a table being freed. */
static struct tw_table *first;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned made[TW_TABLE_ACL + 1];
static uint64_t made_all;
static struct tw_table *sweep_next;

static const char *const kind_name[] = { "",      "hash",     "lru",   "lpm", "lpm6",
	                                 "array", "counters", "meter", "acl" };

void *tw_table_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	/* A table is read at random places: large pages save a TLB miss each. Best effort. */
	if (size >= 2u << 20)
		madvise(memory, size, MADV_HUGEPAGE);
	return memory;
}

void tw_table_memory_free(void *memory, size_t size)
{
	if (memory)
		munmap(memory, size);
}

struct tw_table *tw_table_find(const char *name)
{
	struct tw_table *t;

	for (t = first; t && strcmp(t->name, name); t = t->next)
		;
	return t;
}

uint32_t tw_tables_count(void)
{
	uint32_t n = 0;

	pthread_mutex_lock(&registry_lock);
	for (struct tw_table *t = first; t; t = t->next)
		n++;
	pthread_mutex_unlock(&registry_lock);
	return n;
}

/* Powers of two up to a cache line, then whole lines: no value straddles two lines needlessly. */
static uint32_t value_stride(uint32_t size)
{
	uint32_t stride = 1;

	if (size > 64)
		return (size + 63) & ~63u;
	while (stride < size)
		stride *= 2;
	return stride;
}

/* 8 or a multiple of 16: the lengths that compare without a call to memcmp. */
static uint32_t key_stride(uint32_t size)
{
	return size <= 8 ? 8 : (size + 15) & ~15u;
}

static int name_table(struct tw_table *t, const struct tw_table_spec *spec)
{
	if (!memchr(spec->name, 0, TW_NAME_LEN))
		return tw_fail(EINVAL, "the name of the %s is longer than %d bytes",
		               kind_name[spec->kind], TW_NAME_LEN - 1);
	snprintf(t->name, sizeof(t->name), "%s", spec->name);
	while (!t->name[0] || (!spec->name[0] && tw_table_find(t->name)))
		snprintf(t->name, sizeof(t->name), "%s%u", kind_name[spec->kind],
		         ++made[spec->kind]);
	if (tw_table_find(t->name))
		return tw_fail(EEXIST, "a table named \"%s\" exists, give this one another name",
		               t->name);
	return 0;
}

static int check_spec(const struct tw_table_spec *spec)
{
	bool keyed = spec->kind == TW_TABLE_HASH || spec->kind == TW_TABLE_LRU ||
	             spec->kind == TW_TABLE_ACL;

	if (spec->kind < TW_TABLE_HASH || spec->kind > TW_TABLE_ACL)
		return tw_fail(EINVAL, "%u is not a kind of table", spec->kind);
	if (spec->entries < 1 || spec->entries > TW_TABLE_ENTRIES_MAX)
		return tw_fail(EINVAL, "%u entries: a table has 1 to %d", spec->entries,
		               TW_TABLE_ENTRIES_MAX);
	if (keyed && (spec->key_size < 1 || spec->key_size > TW_TABLE_KEY_MAX))
		return tw_fail(EINVAL, "a key of %u bytes: keys have 1 to %d", spec->key_size,
		               TW_TABLE_KEY_MAX);
	if (spec->kind != TW_TABLE_METER && spec->kind != TW_TABLE_COUNTERS &&
	    (spec->value_size < 1 || spec->value_size > TW_TABLE_VALUE_MAX))
		return tw_fail(EINVAL, "a value of %u bytes: values have 1 to %d", spec->value_size,
		               TW_TABLE_VALUE_MAX);
	if (spec->expires_offset != TW_TABLE_NO_EXPIRY &&
	    (!keyed || spec->expires_offset + 8 > spec->value_size))
		return tw_fail(EINVAL, "only the value of a hash or lru can carry a deadline");
	return 0;
}

static size_t struct_size(uint32_t kind)
{
	switch (kind) {
	case TW_TABLE_LPM4:
	case TW_TABLE_LPM6:
		return tw_lpm_struct_size();
	case TW_TABLE_ARRAY:
	case TW_TABLE_COUNTERS:
		return tw_array_struct_size();
	case TW_TABLE_METER:
		return tw_meter_struct_size();
	case TW_TABLE_ACL:
		return tw_acl_struct_size();
	default:
		return tw_hash_struct_size();
	}
}

static int init(struct tw_table *t, const struct tw_table_spec *spec)
{
	switch (spec->kind) {
	case TW_TABLE_LPM4:
	case TW_TABLE_LPM6:
		return tw_lpm_init(t, spec->groups, spec->number);
	case TW_TABLE_ARRAY:
	case TW_TABLE_COUNTERS:
		return tw_array_init(t);
	case TW_TABLE_METER:
		return tw_meter_init(t);
	case TW_TABLE_ACL:
		return tw_acl_init(t);
	default:
		return tw_hash_init(t);
	}
}

struct tw_table *tw_table_new(const struct tw_table_spec *spec)
{
	struct tw_table *t, **link;

	if (check_spec(spec) < 0)
		return NULL;
	t = aligned_alloc(64, (struct_size(spec->kind) + 63) & ~(size_t)63);
	if (!t) {
		tw_fail(ENOMEM, "no memory for a table of %u entries", spec->entries);
		return NULL;
	}
	memset(t, 0, struct_size(spec->kind));
	t->kind = spec->kind;
	t->entries = spec->entries;
	t->key_size = spec->key_size;
	t->key_stride = key_stride(spec->key_size);
	t->value_size = spec->value_size;
	t->value_stride = value_stride(spec->value_size);
	t->expires_offset = spec->expires_offset;
	if (name_table(t, spec) < 0 || init(t, spec) < 0) {
		free(t);
		return NULL;
	}
	pthread_mutex_lock(&registry_lock);
	t->number = made_all++;
	for (link = &first; *link; link = &(*link)->next)
		;
	*link = t;
	pthread_mutex_unlock(&registry_lock);
	return t;
}

void tw_table_free(struct tw_table *table)
{
	struct tw_table **link;

	if (!table)
		return;
	pthread_mutex_lock(&registry_lock);
	for (link = &first; *link && *link != table; link = &(*link)->next)
		;
	if (!*link) { /* freed with all others; a Lua object of it is collected later */
		pthread_mutex_unlock(&registry_lock);
		return;
	}
	*link = table->next;
	if (sweep_next == table)
		sweep_next = table->next;
	pthread_mutex_unlock(&registry_lock);
	table->ops->destroy(table);
	free(table);
}

void tw_tables_free_all(void)
{
	while (first)
		tw_table_free(first);
	memset(made, 0, sizeof(made));
}

void tw_table_get_info(const struct tw_table *table, struct tw_table_info *info)
{
	memset(info, 0, sizeof(*info));
	memcpy(info->name, table->name, sizeof(info->name));
	info->kind = table->kind;
	info->number = table->number;
	info->entries = table->entries;
	info->count = table->ops->count(table);
	info->key_size = table->key_size;
	info->key_stride = table->key_stride;
	info->value_size = table->value_size;
	info->value_stride = table->value_stride;
	info->expires_offset = table->expires_offset;
	info->retired = table->ops->retired ? table->ops->retired(table) : 0;
	info->full = table->full;
	info->evictions = table->evictions;
	info->expired = table->expired;
	info->bytes = table->bytes;
}

int tw_table_entry(struct tw_table *table, uint32_t *cursor, uint64_t now, void *key, void *value)
{
	return table->ops->entry ? table->ops->entry(table, cursor, now, key, value) : 0;
}

/* Of 64-bit words, the last one filled up with zeroes. */
uint64_t tw_digest(const void *memory, size_t size)
{
	const uint8_t *at = memory;
	uint64_t h = 0, any = 0;

	for (size_t i = 0; i < size; i += 8) {
		uint64_t word = 0;

		memcpy(&word, at + i, size - i < 8 ? size - i : 8);
		any |= word;
		h = (h ^ word) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	return any ? h | 1 : 0;
}

uint64_t tw_table_digest(struct tw_table *table)
{
	_Alignas(8) uint8_t entry[128 + TW_TABLE_VALUE_MAX] = { 0 };
	uint64_t sum = 0;
	uint32_t cursor = 0;

	while (tw_table_entry(table, &cursor, 0, entry, entry + 128) == 1) {
		sum += tw_digest(entry, 128 + table->value_size) | 1;
		memset(entry, 0, 128);
	}
	return sum;
}

int tw_table_clear(struct tw_table *table)
{
	return table->ops->clear ? table->ops->clear(table) : 0;
}

void tw_tables_sweep(uint64_t now, uint32_t budget)
{
	struct tw_table *start;

	/* Somebody else sweeps, or a table is being freed: the next tick is soon enough. */
	if (pthread_mutex_trylock(&registry_lock))
		return;
	start = sweep_next ? sweep_next : first;
	while (start && budget) {
		struct tw_table *t = sweep_next ? sweep_next : first;
		uint32_t cost = 1;

		if (t->ops->sweep)
			cost = t->ops->sweep(t, now, budget);
		budget -= cost < budget ? cost : budget;
		sweep_next = t->next;
		if ((sweep_next ? sweep_next : first) == start)
			break; /* once around */
	}
	pthread_mutex_unlock(&registry_lock);
}
