/* SPDX-License-Identifier: BSD-3-Clause */
/* table.h - what the table files share: the common head of a table and its kinds. */
#pragma once
#include "abi.h"
#include "abi_table.h"
#include "abi_acl.h"

#include <stdatomic.h>

struct tw_table;
struct tw_hash;

struct tw_table_ops {
	void (*destroy)(struct tw_table *t);
	uint32_t (*count)(const struct tw_table *t);
	/* The rest may be NULL: nothing retired, no entries to walk, nothing to sweep. */
	uint32_t (*retired)(const struct tw_table *t);
	int (*entry)(struct tw_table *t, uint32_t *cursor, uint64_t now, void *key, void *value);
	int (*clear)(struct tw_table *t);
	uint32_t (*sweep)(struct tw_table *t, uint64_t now, uint32_t budget); /* budget used */
};

/* First member of every table. Only the counters change after creation. */
struct tw_table {
	const struct tw_table_ops *ops;
	struct tw_table *next; /* registry, in order of creation; under its lock */
	char name[TW_NAME_LEN];
	uint32_t kind;
	uint32_t entries;
	uint32_t key_size, key_stride;
	uint32_t value_size, value_stride;
	uint32_t expires_offset;
	uint64_t bytes;
	uint64_t number; /* how many were made before */
	/* Written by whoever refuses, evicts or expires; relaxed, they guard no data. */
	_Atomic uint64_t full, evictions, expired;
};

/* Zeroed, page-aligned memory outside EAL's, which is bounded in --no-huge mode. NULL: none. */
void *tw_table_memory(size_t size);
void tw_table_memory_free(void *memory, size_t size);

/* One per kind: t has its common head filled; returns 0 or -errno. The caller frees t. */
int tw_hash_init(struct tw_table *t);
int tw_lpm_init(struct tw_table *t, uint32_t groups, bool number);
int tw_array_init(struct tw_table *t);
int tw_meter_init(struct tw_table *t);
int tw_acl_init(struct tw_table *t);
size_t tw_hash_struct_size(void);
size_t tw_lpm_struct_size(void);
size_t tw_array_struct_size(void);
size_t tw_meter_struct_size(void);
size_t tw_acl_struct_size(void);

/* Adds to an integer of 1, 2, 4 or 8 bytes; any lcore may do so at any time. */
static inline void tw_table_add_to(void *to, int64_t n, uint32_t size)
{
	switch (size) {
	case 1:
		__atomic_fetch_add((uint8_t *)to, (uint8_t)n, __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_fetch_add((uint16_t *)to, (uint16_t)n, __ATOMIC_RELAXED);
		break;
	case 4:
		__atomic_fetch_add((uint32_t *)to, (uint32_t)n, __ATOMIC_RELAXED);
		break;
	default:
		__atomic_fetch_add((uint64_t *)to, (uint64_t)n, __ATOMIC_RELAXED);
		break;
	}
}

/* Stores `value` in an integer of 4 or 8 bytes, with `expected` only when it holds that; what was
 * there goes to *old. False: the size is another. */
static inline bool tw_table_exchange(void *at, uint32_t size, const int64_t *expected,
                                     int64_t value, int64_t *old)
{
	uint32_t was4 = expected ? (uint32_t)*expected : 0;
	uint64_t was8 = expected ? (uint64_t)*expected : 0;

	if (size == 4 && expected)
		__atomic_compare_exchange_n((uint32_t *)at, &was4, (uint32_t)value, false,
		                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	else if (size == 4)
		was4 = __atomic_exchange_n((uint32_t *)at, (uint32_t)value, __ATOMIC_SEQ_CST);
	else if (size == 8 && expected)
		__atomic_compare_exchange_n((uint64_t *)at, &was8, (uint64_t)value, false,
		                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	else if (size == 8)
		was8 = __atomic_exchange_n((uint64_t *)at, (uint64_t)value, __ATOMIC_SEQ_CST);
	else
		return false;
	*old = size == 4 ? (int64_t)was4 : (int64_t)was8;
	return true;
}

/* Releases the lock that this thread holds, if any: the fence ended the NF that took it. */
void tw_lock_drop(void);
