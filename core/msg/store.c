/* SPDX-License-Identifier: BSD-3-Clause */
/* store.c - dictionaries in shared memory: entries by key, values, expiry, eviction. */
#include "msg/store.h"
#include "msg/store_lock.h"
#include "error.h"

#include <errno.h>
#include <string.h>

_Static_assert(sizeof(struct shard) <= 192, "room in front of the buckets");
_Static_assert(sizeof(struct entry) == STORE_ENTRY_BYTES, "as the layout says");

#define NEVER INT64_MAX

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

static uint8_t *piece_at(struct op *op, uint32_t n)
{
	if (n == 0 || n > op->s->layout.pieces) {
		op->damaged = true;
		return NULL;
	}
	return store_piece(op->s, op->shard, n);
}

static inline uint32_t piece_room(const struct op *op)
{
	return op->s->layout.piece - 4;
}

static inline uint32_t next_piece(const uint8_t *piece)
{
	return ONCE(*(const uint32_t *)piece);
}

/* Pieces of a key and a value of so many bytes; more than there are when it cannot be. */
static uint32_t pieces_for(const struct op *op, uint64_t bytes)
{
	uint64_t n = (bytes + piece_room(op) - 1) / piece_room(op);
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

static void empty(struct op *op)
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

static int lock_shard(struct op *op, uint32_t index)
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
		empty(op);
		op->shard->emptied++;
	}
	return 0;
}

/* What was found to be wrong is thrown away with all of the shard. */
static void unlock_shard(struct op *op)
{
	if (op->damaged) {
		empty(op);
		op->shard->broken++;
	}
	tw_store_unlock(&op->shard->lock);
}

/* ---- finding ---- */

static bool key_is(struct op *op, struct entry *e)
{
	uint32_t n = ONCE(e->first), room = piece_room(op);
	for (size_t done = 0; done < op->key_len;) {
		const uint8_t *piece = piece_at(op, n);
		size_t part = op->key_len - done < room ? op->key_len - done : room;
		if (!piece || memcmp(piece + 4, op->key + done, part) != 0)
			return false;
		done += part;
		n = next_piece(piece);
	}
	return true;
}

static struct entry *find(struct op *op)
{
	uint32_t n = ONCE(store_buckets(op->shard)[op->bucket]), before = 0;
	for (uint32_t steps = 0; n; steps++) {
		struct entry *e = entry_at(op, n);
		if (!e || steps > op->s->layout.entries || !ONCE(e->kind)) {
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
static int begin(struct op *op, struct tw_store *s, const char *key, size_t key_len,
                 struct entry **found)
{
	*op = (struct op){ .s = s, .key = key, .key_len = key_len };
	*found = NULL;
	if (key_len == 0 || key_len > TW_STORE_KEY_MAX)
		return tw_fail(EINVAL, "store %s: a key of %zu bytes; it can have 1 to %d", s->name, key_len,
		               TW_STORE_KEY_MAX);
	op->hash = hash_of(s->seed, key, key_len);
	op->bucket = (uint32_t)op->hash & (s->layout.buckets - 1);
	op->now = tw_now();
	int rc = lock_shard(op, (uint32_t)(op->hash >> 48) & (s->layout.shards - 1));
	if (rc)
		return rc;
	*found = find(op);
	return 0;
}

static bool has_expired(const struct op *op, const struct entry *e)
{
	uint64_t at = ONCE(e->expires);
	return at && at <= op->now;
}

static uint64_t expiry(const struct op *op, int64_t ttl_ns)
{
	return ttl_ns <= 0 || ttl_ns == NEVER ? 0 : op->now + (uint64_t)ttl_ns;
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

static void touch(struct op *op, struct entry *e)
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
	uint8_t *last = piece_at(op, ONCE(e->last));
	if (!last)
		return;
	*(uint32_t *)last = shard->free_piece;
	shard->free_piece = ONCE(e->first);
	shard->free_pieces += pieces_for(op, entry_bytes(e));
}

static uint32_t one_piece(struct op *op)
{
	struct shard *shard = op->shard;
	uint32_t n = ONCE(shard->free_piece);
	if (n) {
		const uint8_t *piece = piece_at(op, n);
		if (!piece)
			return 0;
		shard->free_piece = next_piece(piece);
		shard->free_pieces--;
		return n;
	}
	n = ONCE(shard->used_pieces) + 1;
	if (!piece_at(op, n))
		return 0;
	shard->used_pieces = n;
	return n;
}

/* ---- entries come and go ---- */

static void remove_entry(struct op *op, struct entry *e, uint32_t n, uint32_t before)
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
static uint32_t before_of(struct op *op, const struct entry *e, uint32_t n)
{
	uint32_t i = ONCE(store_buckets(op->shard)[ONCE(e->hash) & (op->s->layout.buckets - 1)]);
	uint32_t before = 0;
	for (uint32_t steps = 0; i != n; steps++) {
		struct entry *in = entry_at(op, i);
		if (!in || steps > op->s->layout.entries) {
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
	if (has_expired(op, e))
		op->shard->expired++;
	else
		op->shard->evictions++;
	uint32_t before = before_of(op, e, n);
	if (!op->damaged)
		remove_entry(op, e, n, before);
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
	uint32_t at = one_piece(op), room = piece_room(op), left = room;
	uint8_t *piece = at ? piece_at(op, at) : NULL;
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
				piece = piece_at(op, next);
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
static struct entry *insert(struct op *op, const struct tw_store_piece *value, uint32_t pieces,
                            uint64_t len)
{
	struct shard *shard = op->shard;
	uint32_t n;
	struct entry *e;
	if (!make_room(op, pieces_for(op, op->key_len + len)) || !(n = one_entry(op)))
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

static void set_value(struct op *op, struct entry *e, const struct tw_store_value *value,
                      int64_t ttl_ns)
{
	e->kind = (uint8_t)value->kind;
	e->user = value->user;
	if (value->kind == TW_STORE_BYTES)
		e->len = value->len;
	else
		e->number = value->number;
	e->expires = expiry(op, ttl_ns);
	e->version = ++op->shard->version;
}

/* ---- what others call ---- */

static void copy_out(struct op *op, const struct entry *e, uint64_t len, uint8_t *to, uint64_t from,
                     uint64_t max)
{
	uint32_t room = piece_room(op), n = ONCE(e->first);
	uint64_t skip = op->key_len + from;
	uint64_t left = from >= len ? 0 : len - from < max ? len - from : max;
	for (uint64_t steps = 0; left && steps <= op->s->layout.pieces; steps++) {
		const uint8_t *piece = piece_at(op, n);
		if (!piece)
			return;
		n = next_piece(piece);
		__builtin_prefetch(n && n <= op->s->layout.pieces ? store_piece(op->s, op->shard, n)
		                                                  : piece);
		if (skip >= room) {
			skip -= room;
			continue;
		}
		uint64_t part = room - skip < left ? room - skip : left;
		memcpy(to, piece + 4 + skip, part);
		to += part, left -= part, skip = 0;
	}
	if (left)
		op->damaged = true;
}

static void describe(const struct op *op, const struct entry *e, struct tw_store_value *value)
{
	uint64_t expires = ONCE(e->expires);
	value->kind = ONCE(e->kind);
	value->user = ONCE(e->user);
	value->len = value->kind == TW_STORE_BYTES ? ONCE(e->len) : 0;
	value->number = value->kind == TW_STORE_BYTES ? 0 : e->number;
	value->version = ONCE(e->version);
	value->ttl_ns = expires ? (int64_t)(expires - op->now) : NEVER;
}

int tw_store_get(struct tw_store *s, const char *key, size_t key_len, bool stale,
                 struct tw_store_value *value, void *to, uint64_t from, uint64_t max)
{
	struct op op;
	struct entry *e;
	int rc = begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	if (e && (stale || !has_expired(&op, e))) {
		describe(&op, e, value);
		if (value->kind > TW_STORE_BOOLEAN || value->len > s->layout.size)
			op.damaged = true;
		else if (max && value->kind == TW_STORE_BYTES)
			copy_out(&op, e, value->len, to, from, max);
		if (!op.damaged)
			touch(&op, e);
		rc = !op.damaged;
	}
	if (rc)
		op.shard->hits++;
	else
		op.shard->misses++;
	unlock_shard(&op);
	return rc;
}

/* Once more after damage was found: the shard is empty then. */
static int put(struct tw_store *s, const char *key, size_t key_len,
               const struct tw_store_piece *piece, uint32_t pieces,
               const struct tw_store_value *value, int64_t ttl_ns, uint32_t mode)
{
	for (int tries = 0; tries < 2; tries++) {
		struct op op;
		struct entry *e;
		int rc = begin(&op, s, key, key_len, &e);
		if (rc)
			return rc;
		bool there = e && !has_expired(&op, e);
		if (op.damaged)
			rc = -EIO;
		else if (there ? mode == TW_STORE_ADD : mode == TW_STORE_REPLACE)
			rc = there ? -EEXIST : -ENOENT;
		else if (pieces_for(&op, key_len + value->len) == UINT32_MAX) {
			op.shard->full++;
			rc = -EMSGSIZE;
		} else {
			if (e && !there)
				op.shard->expired++;
			if (e)
				remove_entry(&op, e, op.at, op.before);
			e = op.damaged ? NULL : insert(&op, piece, pieces, value->len);
			if (e)
				set_value(&op, e, value, ttl_ns);
			rc = op.damaged || !e ? -EIO : 0;
		}
		unlock_shard(&op);
		if (rc == -EMSGSIZE)
			return tw_fail(EMSGSIZE,
			               "store %s: a value of %llu bytes does not fit; make it "
			               "larger (bytes), or of fewer shards",
			               s->name, (unsigned long long)value->len);
		if (rc != -EIO)
			return rc;
	}
	return tw_fail(EBUSY, "store %s: somebody damages it while it is used", s->name);
}

int tw_store_put(struct tw_store *s, const char *key, size_t key_len,
                 const struct tw_store_piece *piece, uint32_t pieces, int64_t ttl_ns, uint32_t user,
                 uint32_t mode)
{
	struct tw_store_value value = { .kind = TW_STORE_BYTES, .user = user };
	if (pieces > TW_STORE_PIECES)
		return tw_fail(EINVAL, "store %s: a value in %u pieces; at most %d", s->name,
		               pieces, TW_STORE_PIECES);
	for (uint32_t i = 0; i < pieces; i++) {
		value.len += piece[i].len;
		if (piece[i].len > s->layout.size)
			value.len = s->layout.size;
	}
	return put(s, key, key_len, piece, pieces, &value, ttl_ns, mode);
}

int tw_store_put_number(struct tw_store *s, const char *key, size_t key_len, double number,
                        bool boolean, int64_t ttl_ns, uint32_t user, uint32_t mode)
{
	struct tw_store_value value = { .kind = boolean ? TW_STORE_BOOLEAN : TW_STORE_NUMBER,
		                        .user = user,
		                        .number = number };
	return put(s, key, key_len, NULL, 0, &value, ttl_ns, mode);
}

int tw_store_incr(struct tw_store *s, const char *key, size_t key_len, double by, bool starts,
                  double start, int64_t ttl_ns, double *result)
{
	struct op op;
	struct entry *e;
	int rc = begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	bool there = e && !has_expired(&op, e);
	if (there && ONCE(e->kind) != TW_STORE_NUMBER) {
		rc = tw_fail(EINVAL, "store %s: the value of \"%.*s\" is no number", s->name,
		             (int)key_len, key);
	} else if (there) {
		*result = e->number = e->number + by;
		e->version = ++op.shard->version;
		touch(&op, e);
	} else if (!starts) {
		rc = -ENOENT;
	} else {
		struct tw_store_value value = { .kind = TW_STORE_NUMBER, .number = start + by };
		if (e) {
			op.shard->expired++;
			remove_entry(&op, e, op.at, op.before);
		}
		e = op.damaged ? NULL : insert(&op, NULL, 0, 0);
		if (e)
			set_value(&op, e, &value, ttl_ns);
		*result = value.number;
		if (!e || op.damaged)
			rc = tw_fail(EBUSY, "store %s was damaged and is empty in parts; try again",
			             s->name);
	}
	unlock_shard(&op);
	return rc;
}

int tw_store_delete(struct tw_store *s, const char *key, size_t key_len)
{
	struct op op;
	struct entry *e;
	int rc = begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	if (e) {
		rc = !has_expired(&op, e);
		remove_entry(&op, e, op.at, op.before);
	}
	unlock_shard(&op);
	return rc;
}

int tw_store_expire(struct tw_store *s, const char *key, size_t key_len, int64_t ttl_ns)
{
	struct op op;
	struct entry *e;
	int rc = begin(&op, s, key, key_len, &e);
	if (rc)
		return rc;
	if (e && !has_expired(&op, e)) {
		e->expires = expiry(&op, ttl_ns);
		rc = 1;
	}
	unlock_shard(&op);
	return rc;
}

/* ---- all entries ---- */

static uint32_t flush_expired(struct op *op)
{
	uint32_t removed = 0, last = ONCE(op->shard->used_entries);
	for (uint32_t n = 1; n <= last && n <= op->s->layout.entries && !op->damaged; n++) {
		struct entry *e = store_entry(op->s, op->shard, n);
		if (!ONCE(e->kind) || !has_expired(op, e))
			continue;
		uint32_t before = before_of(op, e, n);
		if (op->damaged)
			break;
		remove_entry(op, e, n, before);
		op->shard->expired++;
		removed++;
	}
	return removed;
}

int64_t tw_store_flush(struct tw_store *s, bool expired)
{
	int64_t removed = 0;
	for (uint32_t i = 0; i < s->layout.shards; i++) {
		struct op op = { .s = s, .now = tw_now() };
		int rc = lock_shard(&op, i);
		if (rc)
			return rc;
		if (expired) {
			removed += flush_expired(&op);
		} else {
			removed += op.shard->count;
			empty(&op);
		}
		unlock_shard(&op);
	}
	return removed;
}

/* Key of an entry of a locked shard; its length, 0: it is nonsense. */
static int key_out(struct op *op, const struct entry *e, char *key)
{
	uint32_t len = ONCE(e->key_len);
	if (len > TW_STORE_KEY_MAX)
		return 0;
	op->key_len = 0;
	copy_out(op, e, len, (uint8_t *)key, 0, len);
	return op->damaged ? 0 : (int)len;
}

int tw_store_next(struct tw_store *s, uint64_t *cursor, char key[TW_STORE_KEY_MAX],
                  struct tw_store_value *value)
{
	uint32_t i = (uint32_t)(*cursor >> 32), n = (uint32_t)*cursor + 1;
	for (; i < s->layout.shards; i++, n = 1) {
		struct op op = { .s = s, .now = tw_now() };
		int rc = lock_shard(&op, i);
		if (rc)
			return rc;
		for (; n <= ONCE(op.shard->used_entries) && n <= s->layout.entries; n++) {
			struct entry *e = store_entry(s, op.shard, n);
			if (!ONCE(e->kind) || has_expired(&op, e) || !(rc = key_out(&op, e, key)))
				continue;
			describe(&op, e, value);
			break;
		}
		unlock_shard(&op);
		if (rc > 0) {
			*cursor = (uint64_t)i << 32 | n;
			return rc;
		}
	}
	*cursor = (uint64_t)s->layout.shards << 32;
	return 0;
}

void tw_store_get_stats(struct tw_store *s, struct tw_store_stats *t)
{
	const struct store_layout *l = &s->layout;
	*t = (struct tw_store_stats){ .bytes = l->size };
	t->room = (uint64_t)l->pieces * l->piece * l->shards;
	t->capacity = (uint64_t)l->entries * l->shards;
	t->largest = (uint64_t)l->pieces * (l->piece - 4);
	t->busy = atomic_load_explicit(&s->busy, memory_order_relaxed);
	for (uint32_t i = 0; i < l->shards; i++) {
		struct shard *shard = store_shard(s, i);
		t->count += ONCE(shard->count);
		t->used += ONCE(shard->bytes);
		t->hits += ONCE(shard->hits);
		t->misses += ONCE(shard->misses);
		t->evictions += ONCE(shard->evictions);
		t->expired += ONCE(shard->expired);
		t->full += ONCE(shard->full);
		t->emptied += ONCE(shard->emptied);
		t->broken += ONCE(shard->broken);
	}
}
