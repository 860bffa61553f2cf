/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store.h - how a store lies in memory, for the files that are it.
 *
 *   | head | shard 0 | shard 1 | ...
 *   shard: struct shard | first entry of each bucket | entries | pieces
 *
 * Entries and pieces are known by their number in their shard, from 1; 0: none. Whoever has the
 * store can write anything into it at any time. So what says where things are is a copy in each
 * process, every number is read once and compared before it is used, and every walk has a length.
 */
#pragma once
#include "abi.h"

#include <stdatomic.h>

#define STORE_HEAD 4096
#define STORE_SHARD_HEAD 192 /* struct shard, and room */
#define STORE_ENTRY_BYTES 64

struct store_layout {
	uint64_t size;                                    /* of everything */
	uint64_t shard_bytes;                             /* a multiple of 64 */
	uint32_t shards, buckets, entries, pieces, piece; /* of a shard; bytes of a piece */
	uint32_t spare;
};

struct store_head {
	uint64_t magic;
	struct store_layout layout;
	uint64_t seed[2];
	char name[TW_NAME_LEN];
	uint32_t number; /* in the process that made it */
};

struct shard {
	uint32_t lock;
	uint32_t newest, oldest; /* entries by use */
	uint32_t free_entry, used_entries;
	uint32_t free_piece, free_pieces; /* first of the list, how many */
	uint32_t used_pieces;             /* those behind were never used */
	uint32_t count, spare;
	uint64_t version, bytes;
	uint64_t hits, misses, evictions, expired, full, emptied, broken;
};

struct entry {
	uint64_t hash;
	uint64_t expires; /* tw_now(), 0: never */
	uint64_t version;
	union {
		double number;
		uint64_t len;
	};
	uint32_t in_bucket, newer, older; /* neighbours */
	uint32_t first, last;             /* pieces: key, then bytes */
	uint32_t user;
	uint16_t key_len;
	uint8_t kind; /* 0: free */
	uint8_t spare[5];
};

struct tw_store {
	uint8_t *base;
	struct store_layout layout;
	uint64_t seed[2];
	uint32_t number, users;
	int fd;
	char name[TW_NAME_LEN];
	_Atomic uint64_t busy;
	uint32_t blocked[TW_STORE_SHARDS_MAX]; /* who was waited for in vain */
};

static inline struct shard *store_shard(const struct tw_store *s, uint32_t i)
{
	return (struct shard *)(s->base + STORE_HEAD + i * s->layout.shard_bytes);
}

static inline uint32_t *store_buckets(struct shard *shard)
{
	return (uint32_t *)((uint8_t *)shard + STORE_SHARD_HEAD);
}

/* Of number n, from 1 to layout.entries, layout.pieces. */
static inline struct entry *store_entry(const struct tw_store *s, struct shard *shard, uint32_t n)
{
	return (struct entry *)((uint8_t *)store_buckets(shard) + 4ull * s->layout.buckets) +
	       (n - 1);
}

static inline uint8_t *store_piece(const struct tw_store *s, struct shard *shard, uint32_t n)
{
	return (uint8_t *)(store_entry(s, shard, 1) + s->layout.entries) +
	       (uint64_t)s->layout.piece * (n - 1);
}

/* Bytes of a shard of this layout, but for the last piece's end. */
static inline uint64_t store_shard_bytes(const struct store_layout *l)
{
	return STORE_SHARD_HEAD + 4ull * l->buckets + (uint64_t)STORE_ENTRY_BYTES * l->entries +
	       (uint64_t)l->piece * l->pieces;
}

/* ---- store_shard.c: one operation ---- */

#define STORE_NEVER INT64_MAX

/* Reads a word of the store once: it may be another one the next time. */
#define ONCE(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

/* One operation on one key. */
struct op {
	struct tw_store *s;
	struct shard *shard;
	const char *key;
	size_t key_len;
	uint64_t hash, now;
	uint32_t index; /* of the shard */
	uint32_t bucket;
	uint32_t at;     /* the entry of the key, 0: none */
	uint32_t before; /* the one before it in its bucket, 0: it is the first */
	bool damaged;
};

/* Locks the shard of a key, looks for it: 0 and the entry, NULL: there is none. */
int store_begin(struct op *op, struct tw_store *s, const char *key, size_t key_len,
                struct entry **found);
int store_lock_shard(struct op *op, uint32_t index);
/* What was found to be damaged is thrown away with all of the shard. */
void store_unlock_shard(struct op *op);
void store_empty(struct op *op);

bool store_has_expired(const struct op *op, const struct entry *e);
uint64_t store_expiry(const struct op *op, int64_t ttl_ns);
void store_touch(struct op *op, struct entry *e); /* op->at: the newest now */
/* Entry n, behind the entry `before` in its bucket (store_before()). */
void store_remove(struct op *op, struct entry *e, uint32_t n, uint32_t before);
uint32_t store_before(struct op *op, const struct entry *e, uint32_t n);
/* A new entry of op's key, which is not there; its kind and value are the caller's to set. NULL:
 * the shard is damaged. */
struct entry *store_insert(struct op *op, const struct tw_store_piece *value, uint32_t pieces,
                           uint64_t len);
/* Memory of a piece, NULL: there is none of that number, the shard is damaged. */
uint8_t *store_piece_at(struct op *op, uint32_t n);
/* How many pieces a key and a value of so many bytes take; UINT32_MAX: more than there are. */
uint32_t store_pieces_for(const struct op *op, uint64_t bytes);

static inline uint32_t store_piece_room(const struct op *op)
{
	return op->s->layout.piece - 4;
}

static inline uint32_t store_next_piece(const uint8_t *piece)
{
	return ONCE(*(const uint32_t *)piece);
}
