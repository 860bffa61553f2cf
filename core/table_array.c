/* SPDX-License-Identifier: BSD-3-Clause */
/* table_array.c - arrays, and counters with one copy per lcore: plain memory that Lua indexes. */
#include "error.h"
#include "table.h"

#include <errno.h>
#include <string.h>

#define COPIES (TW_LCORES_MAX + 1) /* one per lcore slot and one for all other threads */

struct tw_array {
	struct tw_table t;
	uint8_t *base;
	size_t size;
	uint32_t stride; /* counters: words from one lcore's copy to the next, whole cache lines */
};

static uint32_t count(const struct tw_table *t)
{
	return t->entries;
}

static void destroy(struct tw_table *table)
{
	struct tw_array *a = (struct tw_array *)table;

	tw_table_memory_free(a->base, a->size);
}

static int entry(struct tw_table *table, uint32_t *cursor, uint64_t now, void *key, void *value)
{
	struct tw_array *a = (struct tw_array *)table;
	uint32_t i = *cursor;

	(void)now;
	if (i >= table->entries)
		return 0;
	memcpy(key, &i, sizeof(i));
	if (table->kind == TW_TABLE_COUNTERS) {
		uint64_t sum = tw_counters_sum(table, i);

		memcpy(value, &sum, sizeof(sum));
	} else {
		memcpy(value, a->base + (size_t)i * table->value_stride, table->value_size);
	}
	*cursor = i + 1;
	return 1;
}

/* Counters being counted while they are cleared may keep a count; there is one writer per copy
 * and it does not look. */
static int clear(struct tw_table *table)
{
	struct tw_array *a = (struct tw_array *)table;

	memset(a->base, 0, a->size);
	return (int)table->entries;
}

static const struct tw_table_ops ops = {
	.destroy = destroy,
	.count = count,
	.entry = entry,
	.clear = clear,
};

size_t tw_array_struct_size(void)
{
	return sizeof(struct tw_array);
}

int tw_array_init(struct tw_table *table)
{
	struct tw_array *a = (struct tw_array *)table;

	if (table->kind == TW_TABLE_COUNTERS) {
		table->value_size = table->value_stride = sizeof(uint64_t);
		a->stride = (table->entries + 7) & ~7u;
		a->size = (size_t)a->stride * sizeof(uint64_t) * COPIES;
	} else {
		a->size = (size_t)table->entries * table->value_stride;
	}
	table->key_size = sizeof(uint32_t);
	table->key_stride = 8;
	a->base = tw_table_memory(a->size);
	if (!a->base)
		return tw_fail(ENOMEM, "no memory for table \"%s\": %zu bytes", table->name,
		               a->size);
	table->bytes = a->size;
	table->ops = &ops;
	return 0;
}

void *tw_array_base(struct tw_table *table)
{
	return ((struct tw_array *)table)->base;
}

bool tw_array_add(struct tw_table *table, uint32_t index, int64_t n)
{
	if (index >= table->entries)
		return false;
	tw_table_add_to(((struct tw_array *)table)->base + (size_t)index * table->value_stride, n,
	                table->value_size);
	return true;
}

static void *cell(struct tw_table *table, uint32_t index)
{
	return ((struct tw_array *)table)->base + (size_t)index * table->value_stride;
}

bool tw_array_exchange(struct tw_table *table, uint32_t index, int64_t value, int64_t *old)
{
	return index < table->entries &&
	       tw_table_exchange(cell(table, index), table->value_size, NULL, value, old);
}

bool tw_array_compare_exchange(struct tw_table *table, uint32_t index, int64_t expected,
                               int64_t value, int64_t *old)
{
	return index < table->entries &&
	       tw_table_exchange(cell(table, index), table->value_size, &expected, value, old);
}

uint64_t *tw_counters_base(struct tw_table *table, uint32_t *stride)
{
	struct tw_array *a = (struct tw_array *)table;

	*stride = a->stride;
	return (uint64_t *)a->base;
}

uint64_t tw_counters_sum(struct tw_table *table, uint32_t index)
{
	const struct tw_array *a = (struct tw_array *)table;
	const uint64_t *word = (const uint64_t *)a->base + index;
	uint64_t sum = 0;

	if (index >= table->entries)
		return 0;
	for (unsigned i = 0; i < COPIES; i++, word += a->stride)
		sum += __atomic_load_n(word, __ATOMIC_RELAXED);
	return sum;
}
