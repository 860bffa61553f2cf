/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_store.h - the part of the boundary for stores: dictionaries in shared memory that all
 * functions of an instance can use, in whatever process they run; same conventions as abi.h, which
 * includes it. Every function may be called in any thread or process that has the store.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_store_limits {
	TW_STORE_KEY_MAX = 512, /* bytes of a key */
	TW_STORES_MAX = 64,     /* of a process */
	TW_STORE_PIECES = 72,   /* of a value that is put in pieces */
	TW_STORE_SHARDS_MAX = 256,
};

struct tw_store;

struct tw_store_spec {
	char name[TW_NAME_LEN];
	uint64_t bytes;   /* of shared memory, everything included */
	uint32_t entries; /* at most, about; 0: as fit */
	uint32_t piece;   /* unit of memory of values, a power of two; 0: 256 */
	uint32_t shards;  /* parts with a lock each, a power of two; 0: 16 */
	uint32_t spare;
};

enum tw_store_kind { TW_STORE_BYTES = 1, TW_STORE_NUMBER, TW_STORE_BOOLEAN };

struct tw_store_value {
	uint32_t kind; /* enum tw_store_kind */
	uint32_t user; /* a number that the setter left along with it */
	uint64_t len;  /* of bytes */
	double number; /* and booleans: 0 or 1 */
	/* counts up with every change of any entry of its shard: the same one, the same value */
	uint64_t version;
	int64_t ttl_ns; /* until it expires; negative: expired so long ago; INT64_MAX: never */
};

struct tw_store_piece {
	const void *at;
	uint64_t len;
};

enum tw_store_mode {
	TW_STORE_SET = 0,
	TW_STORE_ADD,     /* -EEXIST when it is there and has not expired */
	TW_STORE_REPLACE, /* -ENOENT when it is not */
};

struct tw_store_stats {
	uint64_t bytes; /* of shared memory */
	uint64_t used;  /* by keys and values */
	uint64_t room;  /* for them */
	uint64_t count, capacity;
	uint64_t hits, misses;
	uint64_t evictions; /* of entries that had not expired */
	uint64_t expired;   /* removed because they had */
	uint64_t full;      /* values that are longer than can be */
	uint64_t emptied;   /* shards whose lock's holder died */
	uint64_t broken;    /* shards that were not consistent, and are empty since */
	uint64_t busy;      /* operations given up because a lock was not given back */
	uint64_t largest;   /* bytes of key and value together that fit */
};

/* ---- which there are ---- */

/* A new store; its number in this process and in those it is given to. -errno. */
int tw_store_new(const struct tw_store_spec *spec);
/* One more user of a store of this process; NULL: there is none with that number. */
struct tw_store *tw_store_open(uint32_t number);
/* The last user closes it. */
void tw_store_close(struct tw_store *store);
/* Its memory, to be given to another process; stays the store's. -EBADF. */
int tw_store_fd(uint32_t number);
/* The other process: has that store under that number (0: the one it has where it was made) from
 * now on. The number; the descriptor is taken over, also when this fails. */
int tw_store_adopt(uint32_t number, int fd);
const char *tw_store_name(const struct tw_store *store);

/* ---- entries ---- */

/* 1: there, in *value, and up to `max` bytes from `from` on are in `to`; 0: it is not there, or,
 * without `stale`, expired; -EBUSY. */
int tw_store_get(struct tw_store *store, const char *key, size_t key_len, bool stale,
                 struct tw_store_value *value, void *to, uint64_t from, uint64_t max);
/* Bytes of all pieces, one behind the other. ttl_ns: 0: never expires. -EMSGSIZE. */
int tw_store_put(struct tw_store *store, const char *key, size_t key_len,
                 const struct tw_store_piece *piece, uint32_t pieces, int64_t ttl_ns, uint32_t user,
                 uint32_t mode);
/* A number, or with `boolean` 0 or 1. */
int tw_store_put_number(struct tw_store *store, const char *key, size_t key_len, double number,
                        bool boolean, int64_t ttl_ns, uint32_t user, uint32_t mode);
/* Adds to a number; one that is not there, or expired, begins with `start`, which expires after
 * ttl_ns. -ENOENT without `starts`; -EINVAL: not a number. */
int tw_store_incr(struct tw_store *store, const char *key, size_t key_len, double by, bool starts,
                  double start, int64_t ttl_ns, double *result);
int tw_store_delete(struct tw_store *store, const char *key, size_t key_len); /* 1, 0 */
/* Changes when it expires: 1; 0: it is not there. */
int tw_store_expire(struct tw_store *store, const char *key, size_t key_len, int64_t ttl_ns);
/* Removes all entries, or all that have expired; how many. */
int64_t tw_store_flush(struct tw_store *store, bool expired);
/* Next entry behind *cursor, 0 at first, in no order: length of its key; 0: no more. */
int tw_store_next(struct tw_store *store, uint64_t *cursor, char key[TW_STORE_KEY_MAX],
                  struct tw_store_value *value);
void tw_store_get_stats(struct tw_store *store, struct tw_store_stats *stats);
