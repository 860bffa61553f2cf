/* SPDX-License-Identifier: BSD-3-Clause */
/* store_shard.c - a shard of a store: its lock, the entry of a key, order of use, its memory. */
#include "msg/store.h"
#include "msg/store_lock.h"
#include "error.h"

#include <errno.h>
#include <string.h>

_Static_assert(sizeof(struct shard) <= STORE_SHARD_HEAD, "room in front of the buckets");
_Static_assert(sizeof(struct entry) == STORE_ENTRY_BYTES, "as the layout says");

/* Entries of a bucket, of which there are as many as entries: more than a dozen is nobody's luck. A
 * longer walk than that would be somebody's way to keep others busy. */
#define CHAIN_MAX 128

/* ---- hashing: SipHash-1-3, because clients choose keys ---- */

static inline uint64_t rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
	v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

static uint64_t hash_of(const uint64_t seed[2], const char *key, size_t len)
{
	uint64_t v[4] = { seed[0] ^ 0x736f6d6570736575, seed[1] ^ 0x646f72616e646f6d,
		          seed[0] ^ 0x6c7967656e657261, seed[1] ^ 0x7465646279746573 };
	uint64_t word;
	size_t i = 0;
	for (; i + 8 <= len; i += 8) {
		memcpy(&word, key + i, 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	word = (uint64_t)len << 56;
	memcpy(&word, key + i, len - i);
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
	v[2] ^= 0xff;
	sip_round(v), sip_round(v), sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- numbers that were read, as memory; NULL: they are none, the shard is damaged ---- */

static struct entry *entry_at(struct op *op, uint32_t n)
{
	if (n == 0 || n > op->s->layout.entries) {
		op->damaged = true;
		return NULL;
	}
	return store_entry(op->s, op->shard, n);
}

uint8_t *store_piece_at(struct op *op, uint32_t n)
{
	if (n == 0 || n > op->s->layout.pieces) {
		op->damaged = true;
		return NULL;
	}
	return store_piece(op->s, op->shard, n);
}

/* Pieces of a key and a value of so many bytes; more than there are when it cannot be. */
uint32_t store_pieces_for(const struct op *op, uint64_t bytes)
{
	uint64_t n = (bytes + store_piece_room(op) - 1) / store_piece_room(op);
	return n > op->s->layout.pieces || bytes > (uint64_t)op->s->layout.size ? UINT32_MAX
	       : n == 0                                                         ? 1
	                                                                        : (uint32_t)n;
}

static uint64_t entry_bytes(const struct entry *e)
{
	uint64_t key = ONCE(e->key_len);
	return ONCE(e->kind) == TW_STORE_BYTES ? key + ONCE(e->len) : key;
}

/* ---- locks ---- */

void store_empty(struct op *op)
{
	struct shard *shard = op->shard;
	memset(store_buckets(shard), 0, 4ull * op->s->layout.buckets);
	shard->newest = shard->oldest = 0;
	shard->free_entry = shard->used_entries = 0;
	shard->free_piece = shard->free_pieces = shard->used_pieces = 0;
	shard->count = 0;
	shard->bytes = 0;
	shard->version++;
	op->at = op->before = 0;
}

int store_lock_shard(struct op *op, uint32_t index)
{
	struct tw_store *s = op->s;
	op->index = index;
	op->shard = store_shard(s, index);
	int rc = tw_store_lock(&op->shard->lock, &s->blocked[index]);
	if (rc == -EBUSY) {
		atomic_fetch_add_explicit(&s->busy, 1, memory_order_relaxed);
		return tw_fail(EBUSY,
		               "store %s: a function has a part of it locked and does not give "
		               "it back",
		               s->name);
	}
	if (rc == -EOWNERDEAD) {
		store_empty(op);
		op->shard->emptied++;
	}
	return 0;
}

/* What was found to be wrong is thrown away with all of the shard. */
void store_unlock_shard(struct op *op)
{
	if (op->damaged) {
		store_empty(op);
		op->shard->broken++;
	}
	tw_store_unlock(&op->shard->lock);
}

/* ---- finding ---- */

static bool key_is(struct op *op, struct entry *e)
{
	uint32_t n = ONCE(e->first), room = store_piece_room(op);
	for (size_t done = 0; done < op->key_len;) {
		const uint8_t *piece = store_piece_at(op, n);
		size_t part = op->key_len - done < room ? op->key_len - done : room;
		if (!piece || memcmp(piece + 4, op->key + done, part) != 0)
			return false;
		done += part;
		n = store_next_piece(piece);
	}
	return true;
}

static struct entry *find(struct op *op)
{
	uint32_t n = ONCE(store_buckets(op->shard)[op->bucket]), before = 0;
	for (uint32_t steps = 0; n; steps++) {
		struct entry *e = entry_at(op, n);
		if (!e || steps > CHAIN_MAX || !ONCE(e->kind)) {
			op->damaged = true;
			return NULL;
		}
		if (ONCE(e->hash) == op->hash && ONCE(e->key_len) == op->key_len && key_is(op, e)) {
			op->at = n;
			op->before = before;
			return e;
		}
		before = n;
		n = ONCE(e->in_bucket);
	}
	return NULL;
}

/* Locks the shard of a key, looks for it. */
int store_begin(struct op *op, struct tw_store *s, const char *key, size_t key_len,
                struct entry **found)
{
	*op = (struct op){ .s = s, .key = key, .key_len = key_len };
	*found = NULL;
	if (key_len == 0 || key_len > TW_STORE_KEY_MAX)
		return tw_fail(EINVAL, "store %s: a key of %zu bytes; it can have 1 to %d", s->name,
		               key_len, TW_STORE_KEY_MAX);
	op->hash = hash_of(s->seed, key, key_len);
	op->bucket = (uint32_t)op->hash & (s->layout.buckets - 1);
	op->now = tw_now();
	int rc = store_lock_shard(op, (uint32_t)(op->hash >> 48) & (s->layout.shards - 1));
	if (rc)
		return rc;
	*found = find(op);
	return 0;
}

bool store_has_expired(const struct op *op, const struct entry *e)
{
	uint64_t at = ONCE(e->expires);
	return at && at <= op->now;
}

uint64_t store_expiry(const struct op *op, int64_t ttl_ns)
{
	return ttl_ns <= 0 || ttl_ns == STORE_NEVER ? 0 : op->now + (uint64_t)ttl_ns;
}

/* ---- order of use ---- */

static void leave_order(struct op *op, struct entry *e)
{
	uint32_t newer = ONCE(e->newer), older = ONCE(e->older);
	struct entry *to;
	if (!newer)
		op->shard->newest = older;
	else if ((to = entry_at(op, newer)))
		to->older = older;
	if (!older)
		op->shard->oldest = newer;
	else if ((to = entry_at(op, older)))
		to->newer = newer;
}

static void enter_order(struct op *op, struct entry *e, uint32_t n)
{
	uint32_t newest = ONCE(op->shard->newest);
	struct entry *to;
	e->newer = 0;
	e->older = newest;
	if (newest && (to = entry_at(op, newest)))
		to->newer = n;
	op->shard->newest = n;
	if (!newest)
		op->shard->oldest = n;
}

void store_touch(struct op *op, struct entry *e)
{
	if (ONCE(op->shard->newest) == op->at)
		return;
	leave_order(op, e);
	enter_order(op, e, op->at);
}

/* ---- pieces ---- */

static void free_pieces(struct op *op, struct entry *e)
{
	struct shard *shard = op->shard;
	uint8_t *last = store_piece_at(op, ONCE(e->last));
	if (!last)
		return;
	*(uint32_t *)last = shard->free_piece;
	shard->free_piece = ONCE(e->first);
	shard->free_pieces += store_pieces_for(op, entry_bytes(e));
}

static uint32_t one_piece(struct op *op)
{
	struct shard *shard = op->shard;
	uint32_t n = ONCE(shard->free_piece);
	if (n) {
		const uint8_t *piece = store_piece_at(op, n);
		if (!piece)
			return 0;
		shard->free_piece = store_next_piece(piece);
		shard->free_pieces--;
		return n;
	}
	n = ONCE(shard->used_pieces) + 1;
	if (!store_piece_at(op, n))
		return 0;
	shard->used_pieces = n;
	return n;
}

/* ---- entries come and go ---- */

void store_remove(struct op *op, struct entry *e, uint32_t n, uint32_t before)
{
	struct shard *shard = op->shard;
	struct entry *b;
	uint32_t next = ONCE(e->in_bucket);
	if (!before)
		store_buckets(shard)[ONCE(e->hash) & (op->s->layout.buckets - 1)] = next;
	else if ((b = entry_at(op, before)))
		b->in_bucket = next;
	leave_order(op, e);
	shard->bytes -= entry_bytes(e);
	free_pieces(op, e);
	e->kind = 0;
	e->in_bucket = ONCE(shard->free_entry);
	shard->free_entry = n;
	shard->count--;
	shard->version++;
}

/* Which one stands before entry n in its bucket, 0: it is the first. */
uint32_t store_before(struct op *op, const struct entry *e, uint32_t n)
{
	uint32_t i = ONCE(store_buckets(op->shard)[ONCE(e->hash) & (op->s->layout.buckets - 1)]);
	uint32_t before = 0;
	for (uint32_t steps = 0; i != n; steps++) {
		struct entry *in = entry_at(op, i);
		if (!in || steps > CHAIN_MAX) {
			op->damaged = true;
			return 0;
		}
		before = i;
		i = ONCE(in->in_bucket);
	}
	return before;
}

/* The one that was not used for longest goes. */
static bool evict(struct op *op)
{
	uint32_t n = ONCE(op->shard->oldest);
	struct entry *e = entry_at(op, n);
	if (!e || !ONCE(e->kind)) {
		op->damaged = true;
		return false;
	}
	if (store_has_expired(op, e))
		op->shard->expired++;
	else
		op->shard->evictions++;
	uint32_t before = store_before(op, e, n);
	if (!op->damaged)
		store_remove(op, e, n, before);
	return !op->damaged;
}

static bool make_room(struct op *op, uint32_t pieces)
{
	struct shard *shard = op->shard;
	const struct store_layout *l = &op->s->layout;
	for (uint32_t steps = 0; steps <= l->entries; steps++) {
		bool entry = ONCE(shard->free_entry) || ONCE(shard->used_entries) < l->entries;
		uint64_t used = ONCE(shard->used_pieces);
		uint64_t there = ONCE(shard->free_pieces) +
		                 (used < l->pieces ? l->pieces - used : 0);
		if (entry && there >= pieces)
			return true;
		if (!evict(op))
			return false;
	}
	op->damaged = true;
	return false;
}

static uint32_t one_entry(struct op *op)
{
	struct shard *shard = op->shard;
	uint32_t n = ONCE(shard->free_entry);
	struct entry *e;
	if (!n) {
		n = ONCE(shard->used_entries) + 1;
		if (!entry_at(op, n))
			return 0;
		shard->used_entries = n;
		return n;
	}
	if (!(e = entry_at(op, n)))
		return 0;
	shard->free_entry = ONCE(e->in_bucket);
	return n;
}

/* Writes the key and then the pieces of the value into pieces of the shard. */
static bool fill(struct op *op, struct entry *e, const struct tw_store_piece *value, uint32_t n)
{
	uint32_t at = one_piece(op), room = store_piece_room(op), left = room;
	uint8_t *piece = at ? store_piece_at(op, at) : NULL;
	if (!piece)
		return false;
	e->first = at;
	for (uint32_t i = 0; i <= n; i++) {
		const uint8_t *from = i ? value[i - 1].at : (const void *)op->key;
		uint64_t len = i ? value[i - 1].len : op->key_len;
		while (len) {
			if (!left) {
				uint32_t next = one_piece(op);
				if (!next)
					return false;
				*(uint32_t *)piece = next;
				piece = store_piece_at(op, next);
				at = next;
				left = room;
			}
			uint32_t part = len < left ? (uint32_t)len : left;
			memcpy(piece + 4 + (room - left), from, part);
			from += part, len -= part, left -= part;
		}
	}
	*(uint32_t *)piece = 0;
	e->last = at;
	return true;
}

/* A new entry of op's key, which is not there; its kind and value are the caller's to set. */
struct entry *store_insert(struct op *op, const struct tw_store_piece *value, uint32_t pieces,
                           uint64_t len)
{
	struct shard *shard = op->shard;
	uint32_t n;
	struct entry *e;
	if (!make_room(op, store_pieces_for(op, op->key_len + len)) || !(n = one_entry(op)))
		return NULL;
	e = store_entry(op->s, shard, n);
	if (!fill(op, e, value, pieces)) {
		op->damaged = true;
		return NULL;
	}
	e->hash = op->hash;
	e->key_len = (uint16_t)op->key_len;
	e->in_bucket = store_buckets(shard)[op->bucket];
	store_buckets(shard)[op->bucket] = n;
	enter_order(op, e, n);
	shard->count++;
	shard->bytes += op->key_len + len;
	op->at = n;
	return e;
}
