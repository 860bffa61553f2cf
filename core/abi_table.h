/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_table.h - the part of the boundary that Lua's tables use; same conventions as abi.h, which
 * includes it.
 *
 * A table is made by the control thread and lives until tw_table_free() or the stop of the
 * engine. Every function below may be called from any thread unless it says "control thread".
 * A value that an lcore got a pointer to stays that entry's until the lcore's current burst is
 * over, even when another thread deletes the entry meanwhile. Other threads have no such burst:
 * they copy what they read at once.
 *
 * Keys: `key` is tw_table_info.key_stride bytes, 8-byte aligned, and the bytes that no field
 * covers are zero. Values: value_size bytes, aligned as a C struct of their fields is.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_table_kind {
	TW_TABLE_HASH = 1,
	TW_TABLE_LRU = 2, /* a hash that evicts when full */
	TW_TABLE_LPM4 = 3,
	TW_TABLE_LPM6 = 4,
	TW_TABLE_ARRAY = 5,
	TW_TABLE_COUNTERS = 6,
	TW_TABLE_METER = 7,
};

enum tw_table_limit {
	TW_TABLE_KEY_MAX = 64,     /* bytes of a key */
	TW_TABLE_VALUE_MAX = 4096, /* bytes of a value */
	TW_TABLE_ENTRIES_MAX = 1 << 26,
	TW_TABLE_BULK_MAX = 64, /* keys of a bulk look-up */
	TW_TABLE_NO_EXPIRY = 0xffff,
	TW_TABLE_CONTROL = TW_LCORES_MAX, /* counter slot of every thread that is no lcore */
};

struct tw_table; /* opaque */

struct tw_table_spec {
	char name[TW_NAME_LEN]; /* empty: a name is made up */
	uint32_t kind;
	uint32_t entries;
	uint32_t key_size; /* hash, lru */
	uint32_t value_size;
	uint32_t expires_offset; /* of the u64 deadline in the value, or TW_TABLE_NO_EXPIRY */
	uint32_t groups;         /* lpm: tbl8 groups of 256 entries; 0: derived from entries */
	bool number;             /* lpm: nobody writes to a value through what a look-up gave */
};

struct tw_table_info {
	char name[TW_NAME_LEN];
	uint32_t kind;
	uint32_t entries; /* capacity */
	uint32_t count;   /* entries in the table, expired ones that were not swept included */
	uint32_t key_size, key_stride;
	uint32_t value_size, value_stride;
	uint32_t expires_offset;
	uint32_t retired;   /* removed, memory not yet reused: an lcore may still look at it */
	uint64_t full;      /* insertions refused: all entries in use, or no memory back in time */
	uint64_t evictions; /* entries that made room for another (lru) */
	uint64_t expired;   /* entries removed after their deadline */
	uint64_t bytes;     /* memory, that of DPDK's structures estimated */
	uint64_t number;    /* how many tables were made before */
};

/* NULL when the specification is wrong or memory is short. Control thread. */
struct tw_table *tw_table_new(const struct tw_table_spec *spec);
/* No lcore may still use the table. Control thread. */
void tw_table_free(struct tw_table *table);
void tw_tables_free_all(void);
struct tw_table *tw_table_find(const char *name); /* NULL: none. Control thread. */
uint32_t tw_tables_count(void);
void tw_table_get_info(const struct tw_table *table, struct tw_table_info *info);

/* Copies the next entry at or after *cursor (0 at first) whose deadline is not past; 1, or 0 at
 * the end. Entries that come and go meanwhile may or may not be seen; none is seen half. */
int tw_table_entry(struct tw_table *table, uint32_t *cursor, uint64_t now, void *key, void *value);
/* A number that entries decide, not their order; 0: there are none. */
uint64_t tw_table_digest(struct tw_table *table);
uint64_t tw_digest(const void *memory, size_t size); /* of bytes; 0: all of them are */
int tw_table_clear(struct tw_table *table);          /* number of entries removed, or -errno */
/* Removes expired entries and reuses memory after its grace period; looks at up to `budget`
 * entries. Call it every tick from one thread that is not busy, normally the control thread. */
void tw_tables_sweep(uint64_t now, uint32_t budget);

/* ---- hash and lru: NULL means not found, or full for put ---- */
void *tw_hash_get(struct tw_table *table, const void *key, uint64_t now);
/* What an inlined look-up needs; constant. See tw_hash_find_front() in table_slots.h. */
struct tw_hash_view {
	const uint64_t *front; /* pairs of signature << 32 | slot: hints */
	const uint8_t *live;   /* by slot */
	uint8_t *used;         /* by slot: to be set; NULL: no lru */
	uint8_t *entries;      /* of slot s: entries + s * entry_stride; key, then value */
	uint64_t seed, factor;
	uint32_t front_mask, entry_stride, key_stride;
	uint32_t expires_offset; /* of the deadline in the value, or TW_TABLE_NO_EXPIRY */
};
void tw_hash_view(const struct tw_table *table, struct tw_hash_view *view);
/* One pointer per key in values[], NULL where not found; number of keys found.
 * n <= TW_TABLE_BULK_MAX. Prefetches, so it costs less than n single look-ups. */
int tw_hash_get_bulk(struct tw_table *table, const void *const *keys, uint32_t n, uint64_t now,
                     void **values);
/* The entry's value, a new zeroed one when there was none. */
void *tw_hash_put(struct tw_table *table, const void *key, uint64_t now);
/* Readers see the old or the new value, no mixture. False: full. */
bool tw_hash_set(struct tw_table *table, const void *key, const void *value, uint64_t now);
bool tw_hash_del(struct tw_table *table, const void *key, uint64_t now);
/* Adds atomically to an integer value of 1, 2, 4 or 8 bytes, from 0 when absent. False: full. */
bool tw_hash_add(struct tw_table *table, const void *key, int64_t n, uint64_t now);
/* Atomic, on integer values of 4 or 8 bytes: store `value`, compare_exchange only when the value is
 * `expected`; what was there goes to *old. False: there is no entry, or the value is none of these.
 */
bool tw_hash_exchange(struct tw_table *table, const void *key, int64_t value, uint64_t now,
                      int64_t *old);
bool tw_hash_compare_exchange(struct tw_table *table, const void *key, int64_t expected,
                              int64_t value, uint64_t now, int64_t *old);

/* ---- lpm: address in host order (4) or as 16 bytes in network order (6) ---- */

/* What an inlined IPv4 look-up needs; constant but for default_slot. An entry of tbl24 and tbl8
 * is slot | valid << 24 | extended << 25, as in rte_lpm (asserted in table_lpm.c). */
struct tw_lpm_view {
	const int32_t *tbl24, *tbl8;
	uint8_t *values; /* value of slot s: values + s * value_stride */
	uint32_t value_stride;
	uint32_t default_slot; /* value of the /0 prefix; 0: there is none */
	bool number;           /* the value of slot s is s - 1: no need to look */
};
const struct tw_lpm_view *tw_lpm_view(const struct tw_table *table);

void *tw_lpm4_get(struct tw_table *table, uint32_t address);
void *tw_lpm6_get(struct tw_table *table, const void *address);
int tw_lpm4_get_bulk(struct tw_table *table, const uint32_t *addresses, uint32_t n, void **values);
/* Prefixes: bits behind the length are ignored. 0 or -errno: -ENOSPC full, -EINVAL length. */
int tw_lpm_set(struct tw_table *table, const void *address, uint32_t length, const void *value);
/* Value of exactly this prefix, or NULL. */
void *tw_lpm_find(struct tw_table *table, const void *address, uint32_t length);
bool tw_lpm_del(struct tw_table *table, const void *address, uint32_t length);
/* "10.0.0.0/8", "2001:db8::/32", or an address alone; 0 or -EINVAL. */
int tw_prefix_parse(const char *text, int family, void *address, uint32_t *length);
int tw_prefix_print(int family, const void *address, uint32_t length, char *text, size_t size);

/* Key of an lpm table as tw_table_entry() copies it. */
struct tw_lpm_key {
	uint8_t address[16]; /* family 4: the first four bytes, in host order */
	uint32_t length;
};

/* ---- array and counters: plain memory ---- */
void *tw_array_base(struct tw_table *table); /* entry i: base + i * value_stride */
/* As tw_hash_add(). False: there is no such entry. */
bool tw_array_add(struct tw_table *table, uint32_t index, int64_t n);
bool tw_array_exchange(struct tw_table *table, uint32_t index, int64_t value, int64_t *old);
bool tw_array_compare_exchange(struct tw_table *table, uint32_t index, int64_t expected,
                               int64_t value, int64_t *old);
uint64_t *tw_counters_base(struct tw_table *table,
                           uint32_t *stride); /* words from lcore to lcore */
uint64_t tw_counters_sum(struct tw_table *table, uint32_t index);

/* ---- spin locks in entries: 4 bytes, 0 when free ---- */
/* 0 or -errno: this thread holds a lock (which is released), or the holder does not give it back.
 */
int tw_lock(void *word);
int tw_unlock(void *word); /* 0, or -EPERM: the thread does not hold this lock */

/* ---- meter: srTCM (RFC 2697) and trTCM (RFC 2698) ---- */
enum tw_color { TW_GREEN = 0, TW_YELLOW = 1, TW_RED = 2 };
struct tw_meter_rate { /* bytes per second and bytes; pir 0: single rate, pbs is then EBS */
	uint64_t cir, cbs, pir, pbs;
};
/* Sets the rate of the meters first..last and fills their buckets; 0 or -errno. */
int tw_meter_config(struct tw_table *table, uint32_t first, uint32_t last,
                    const struct tw_meter_rate *rate, uint64_t now);
/* Colour of a packet of `length` bytes; `color` is what an earlier marker gave it, TW_GREEN for
 * the colour-blind mode. TW_RED for an index that does not exist. */
int tw_meter_mark(struct tw_table *table, uint32_t index, uint32_t length, int color, uint64_t now);
